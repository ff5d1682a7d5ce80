import pandas
import pytest

from schemas.errors import RegistryError
from trainer import packages


@pytest.mark.parametrize("line", ["numpy==1.0", "numpy>=1.0", "numpy"])
def test_op12_a_requirement_must_be_exactly_what_is_installed(tmp_path, line):
    with pytest.raises(RegistryError, match=r"requirement numpy.*, installed \d"):
        packages.link([line], tmp_path / "packages")


def test_op12_a_requirement_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(RegistryError, match="requirement no-such-package, not installed"):
        packages.link(["no-such-package==1"], tmp_path / "packages")


def test_op12_links_hold_what_a_requirement_needs_and_nothing_else(tmp_path):
    packages.link([f"pandas=={pandas.__version__}"], tmp_path / "packages")
    found = {link.name for link in (tmp_path / "packages").iterdir()}
    assert {"pandas", "numpy", "dateutil"} <= found
    assert not found & {"torch", "mlflow", "pyspark", "trainer"}
