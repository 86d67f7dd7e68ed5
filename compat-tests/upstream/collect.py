"""Which upstream tests there are, and the stable name of each.

Owns the list of modules and the naming. Collects everything ZEO ships, as ZEO's own test runner
would; what is not run is said in excluded.toml, never here.
"""
import doctest
import importlib
import pkgutil
import unittest
from collections import Counter
from dataclasses import dataclass

# Classes that ZEO's suite leaves out to save time; the first is the heart of the matter.
LEFT_OUT_UPSTREAM = (
    "FileStorageTests",
    "FileStorageHexTests",
    "FileStorageClientHexTests",
    "DemoStorageTests",
)
OTHER_MODULES = ("ZEO.asyncio.tests", "ZEO.scripts.tests")
METHOD_PREFIXES = ("check", "test")
PACKAGE_PREFIXES = ("ZEO.tests.", "ZODB.tests.", "ZEO.")


@dataclass
class Collected:
    """One test, the layer it runs in, and its name."""

    id: str
    test: unittest.TestCase
    layer: object


def collect():
    """Every upstream test by name."""
    found = []
    for module in _modules():
        found += _walk(module, _suite(module), None)
    counts = Counter(item.id for item in found)
    tests = {}
    for item in found:
        if counts[item.id] > 1:
            # The same document or doctest runs against several storages, one layer each.
            item.id = f"{item.id}@{getattr(item.layer, '__name__', item.layer)}"
        if item.id in tests:
            raise RuntimeError(f"two tests are called {item.id}")
        tests[item.id] = item
    return tests


def _modules():
    tests = importlib.import_module("ZEO.tests")
    names = [f"ZEO.tests.{info.name}" for info in pkgutil.iter_modules(tests.__path__)]
    names = [name for name in names if name.rpartition(".")[2].startswith("test")]
    return [importlib.import_module(name) for name in (*names, *OTHER_MODULES)]


def _suite(module):
    loader = unittest.defaultTestLoader
    if hasattr(module, "test_suite"):
        suite = unittest.TestSuite([module.test_suite()])
    else:
        suite = unittest.TestSuite([loader.loadTestsFromModule(module)])
    if module.__name__ == "ZEO.tests.testZEO":
        for name in LEFT_OUT_UPSTREAM:
            for prefix in METHOD_PREFIXES:
                loader = unittest.TestLoader()
                loader.testMethodPrefix = prefix
                suite.addTest(loader.loadTestsFromTestCase(getattr(module, name)))
    return suite


def _walk(module, test, layer):
    layer = getattr(test, "layer", layer)
    if isinstance(test, unittest.TestSuite):
        for each in test:
            yield from _walk(module, each, layer)
    else:
        yield Collected(_name(module, test), test, layer)


def _name(module, test):
    if isinstance(test, doctest.DocFileCase):
        return f"{_short(module.__name__)}.{test._dt_test.name}"
    return _short(test.id())


def _short(name):
    for prefix in PACKAGE_PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name
