import pyarrow as pa
import pytest

from schemas.contract import Contract, optional, required
from schemas.reference import CHAIN


def make(**changes):
    values = {
        "table": "fruit",
        "version": 1,
        "key": ("name",),
        "stage": "tests",
        "about": "One fruit.",
        "fields": [required("name", pa.string(), "what"), optional("size", pa.int32(), "cm")],
    }
    return Contract(**(values | changes))


def test_the_schema_carries_types_and_nullability():
    assert make().schema == pa.schema(
        [pa.field("name", pa.string(), nullable=False), pa.field("size", pa.int32())]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"key": ("size",)},
        {"fields": [required("name", pa.string(), "what")]},
        {"fields": [required("name", pa.string(), "", one_of=("a",)), make().fields[1]]},
    ],
)
def test_the_schema_digest_changes_with_the_promise(change):
    assert make(**change).schema_digest != make().schema_digest


def test_the_schema_digest_does_not_change_with_the_prose():
    fields = [required("name", pa.string(), "which"), optional("size", pa.int32(), "width")]
    assert make(fields=fields, about="A fruit.").schema_digest == make().schema_digest


@pytest.mark.parametrize("contract", CHAIN, ids=lambda c: c.table)
def test_every_contract_names_its_key_among_its_columns_and_describes_them(contract):
    assert set(contract.key) <= set(contract.columns)
    assert all(f.about for f in contract.fields)


@pytest.mark.parametrize("contract", CHAIN, ids=lambda c: c.table)
def test_the_spark_type_is_derived_from_the_contract(contract):
    from jobs.spark import struct_type

    struct = struct_type(contract)
    assert struct.names == list(contract.columns)
    assert [f.nullable for f in struct.fields] == [f.nullable for f in contract.fields]
