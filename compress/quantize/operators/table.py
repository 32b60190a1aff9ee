# SPDX-License-Identifier: Apache-2.0
"""All rewrites: operator -> how it is written in others. A new operator is a function and a line in one of these."""

from __future__ import annotations

from edgepress.compress.quantize.operators import elementwise, norms, pooling, products, recurrent, shapes, windows
from edgepress.compress.quantize.operators.build import Rewrite

#: For converters that know them in no form, whatever the numbers.
FOR_CONVERTERS: dict[object, Rewrite] = {**elementwise.ALWAYS, **shapes.ALWAYS, **windows.ALWAYS}
#: For integers.
FOR_INTEGERS: dict[object, Rewrite] = {
    **elementwise.REWRITES,
    **norms.REWRITES,
    **pooling.REWRITES,
    **products.REWRITES,
    **recurrent.REWRITES,
    **shapes.REWRITES,
}
