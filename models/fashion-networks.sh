#!/bin/sh
# Trains the networks of the remapping and pruning studies three times each, in about 70 minutes on one core.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
geniex=${GENIEX:-.venv/bin/geniex}
out=${OUT:-models}
for seed in 0 1 2; do
  "$geniex" fit --network fashion-vgg --epochs 8 --seed $seed --out "$out/fashion-vgg-$seed"
  "$geniex" fit --network fashion-resnet20 --epochs 10 --seed $seed --out "$out/fashion-resnet20-$seed"
done
