"""Item graph: one row per weighted edge from an item to one of its strongest neighbours."""

import pyarrow as pa

from schemas.contract import Contract, required

ITEM_GRAPH = Contract(
    table="item_graph",
    version=1,
    key=("item_index", "neighbour_index"),
    stage="jobs.item_graph",
    about="One weighted edge, from training positions only; at most `top_k` edges leave an item.",
    fields=[
        required("item_index", pa.int32(), "from", at_least=1),
        required("neighbour_index", pa.int32(), "to; never the item itself", at_least=1),
        required("pair_weight", pa.float64(), "summed decayed weight of the pairs", at_least=0),
        required("weight", pa.float64(), "after the normaliser", at_least=0),
    ],
)
