from tests import one_thread, torchvision_shim  # noqa: F401 - before any test imports torch
