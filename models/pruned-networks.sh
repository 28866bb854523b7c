#!/bin/sh
# Prunes the VGG networks of the studies by channels (cf), crossbar columns (xcs) and crossbar rows (xrs), and cuts the weights
# of the pruned and of the unpruned networks (wct). The 21 networks take 2 passes or 1 over half of the training images,
# about 20 minutes on one core in all.
# DEVICE=cuda trains on a GPU, SEEDS="0" takes one training alone, and OPTIONS is passed on (OPTIONS="--images 512").
#
# The first layer's 3x3 kernels of one channel are 0.1 % of the weights, and they alone see the image. xcs and xrs leave them
# whole, because otherwise 7 of 9 pixels would be lost. xcs also leaves the last layer (4 %) whole, because otherwise most
# classes would have no weight. Tiles have 128 word lines and 64 outputs, as in the conversion by sparse-xbar.yaml, with one
# bit line for each weight.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
geniex=${GENIEX:-.venv/bin/geniex}
out=${OUT:-models}
fit() {
  # shellcheck disable=SC2086
  "$geniex" fit --device "${DEVICE:-cpu}" --images 30000 --tile 128 --tile_outputs 64 "$@" ${OPTIONS:-}
}
for seed in ${SEEDS:-0 1 2}; do
  vgg=fashion-vgg-$seed
  fit --start "$vgg" --w_cut 0.5 --epochs 1 --seed "$seed" --out "$out/$vgg-wct"
  for method in cf xcs xrs; do
    case $method in
      cf) skip= ;;
      xcs) skip="--skip features.0 --skip classifier" ;;
      xrs) skip="--skip features.0" ;;
    esac
    # shellcheck disable=SC2086
    fit --start "$vgg" --prune "$method" $skip --sparsity 0.8 --epochs 2 --seed "$seed" --out "$out/$vgg-$method"
    fit --start "$out/$vgg-$method" --w_cut 0.5 --epochs 1 --seed "$seed" --out "$out/$vgg-$method-wct"
  done
done
