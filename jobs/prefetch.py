"""Prefetch: asks for memory that a compiled loop is going to read, so that it need not wait then.

Where each step reads a place that no step before has been near, most of a loop's time is waiting.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

READ, KEEP_IN_ALL_CACHES, DATA = 0, 3, 1
"""The other arguments of `llvm.prefetch` (LLVM language reference)."""


@intrinsic
def prefetch(_: Any, array: Any, place: Any) -> Any:
    """Asks for the cache line of `array[place]`; a place outside the array does nothing."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", (address.type,), kind)
        how = [ir.Constant(number, value) for value in (READ, KEEP_IN_ALL_CACHES, DATA)]
        builder.call(function, [address, *how])
        return context.get_dummy_value()

    return types.void(array, types.int64), build
