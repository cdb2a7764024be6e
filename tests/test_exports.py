"""What a user can import is what the packages name."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("package", ["artifacts", "creds"])
def test_all_is_sorted_and_real(package):
    """Each name of __all__ exists, is documented, and comes from this project; the list is sorted."""
    module = importlib.import_module(package)
    assert module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        value = getattr(module, name)
        if not hasattr(value, "__origin__"):
            assert value.__doc__, name
            assert value.__module__.partition(".")[0] in ("artifacts", "creds"), name
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", ["artifacts", "creds"])
def test_errors_are_all_exported(package):
    """Every error class of the package can be imported from its top."""
    module = importlib.import_module(package)
    errors = importlib.import_module(f"{package}.errors")
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    assert own <= set(module.__all__)


def test_unknown_names_are_attribute_errors():
    """A misspelt name fails as it does in any module."""
    import artifacts

    with pytest.raises(AttributeError, match="module 'artifacts' has no attribute 'stage'"):
        _ = artifacts.stage
