"""The ``geniex`` command and its verbs."""
