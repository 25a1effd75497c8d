from tests import torchvision_shim  # noqa: F401 - before any test imports torchvision
