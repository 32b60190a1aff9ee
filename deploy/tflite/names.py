"""The part of TFLite's schema (version 3) that names things: operators, element types, options by field number.

Facts of tensorflow/compiler/mlir/lite/schema/schema.fbs; an operator's number is its place in the list.
"""

from __future__ import annotations

#: Builtin operators by number.
BUILTIN_OPERATORS = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU",
    "RELU_N1_TO_1", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH",
    "CONCAT_EMBEDDINGS", "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB",
    "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP", "TOPK_V2",
    "SPLIT", "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM", "ARG_MAX",
    "MINIMUM", "LESS", "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE", "SIN",
    "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT", "RSQRT",
    "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT",
    "LOGICAL_AND", "LOGICAL_NOT", "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL",
    "FLOOR_MOD", "RANGE", "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS",
    "SPLIT_V", "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU",
    "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE",
    "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM",
    "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM", "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D",
    "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "REDUCE_ALL",
    "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL",
    "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1",
    "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "ATAN2", "UNSORTED_SEGMENT_MIN", "SIGN",
    "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "STABLEHLO_LOGISTIC", "STABLEHLO_ADD", "STABLEHLO_DIVIDE",
    "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_RESHAPE", "STABLEHLO_CLAMP", "STABLEHLO_CONCATENATE",
    "STABLEHLO_BROADCAST_IN_DIM", "STABLEHLO_CONVOLUTION", "STABLEHLO_SLICE", "STABLEHLO_CUSTOM_CALL",
    "STABLEHLO_REDUCE", "STABLEHLO_ABS", "STABLEHLO_AND", "STABLEHLO_COSINE", "STABLEHLO_EXPONENTIAL",
    "STABLEHLO_FLOOR", "STABLEHLO_LOG", "STABLEHLO_MINIMUM", "STABLEHLO_NEGATE", "STABLEHLO_OR", "STABLEHLO_POWER",
    "STABLEHLO_REMAINDER", "STABLEHLO_RSQRT", "STABLEHLO_SELECT", "STABLEHLO_SUBTRACT", "STABLEHLO_TANH",
    "STABLEHLO_SCATTER", "STABLEHLO_COMPARE", "STABLEHLO_CONVERT", "STABLEHLO_DYNAMIC_SLICE",
    "STABLEHLO_DYNAMIC_UPDATE_SLICE", "STABLEHLO_PAD", "STABLEHLO_IOTA", "STABLEHLO_DOT_GENERAL",
    "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_GATHER", "STABLEHLO_TRANSPOSE",
    "DILATE", "STABLEHLO_RNG_BIT_GENERATOR", "REDUCE_WINDOW", "STABLEHLO_COMPOSITE", "STABLEHLO_SHIFT_LEFT",
    "STABLEHLO_CBRT", "STABLEHLO_CASE",
)

#: Number -> (name as in NumPy where NumPy has it, bits of one element); None where elements have no fixed size.
ELEMENT_TYPES: dict[int, tuple[str, int | None]] = {
    0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8), 4: ("int64", 64), 5: ("string", None),
    6: ("bool", 8), 7: ("int16", 16), 8: ("complex64", 64), 9: ("int8", 8), 10: ("float64", 64),
    11: ("complex128", 128), 12: ("uint64", 64), 13: ("resource", None), 14: ("variant", None), 15: ("uint32", 32),
    16: ("uint16", 16), 17: ("int4", 4), 18: ("bfloat16", 16), 19: ("int2", 2), 20: ("uint4", 4),
    21: ("float8_e4m3fn", 8), 22: ("float8_e5m2", 8),
}
FUSED_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
PADDINGS = ("SAME", "VALID")

#: Options of one operator: name -> (field number, kind, default).
OptionFields = dict[str, tuple[int, str, int | float | bool]]
_POOLING: OptionFields = {
    "padding": (0, "padding", 0), "stride_w": (1, "int32", 0), "stride_h": (2, "int32", 0),
    "filter_w": (3, "int32", 0), "filter_h": (4, "int32", 0), "fused_activation": (5, "activation", 0)}
_FUSED_FIRST: OptionFields = {"fused_activation": (0, "activation", 0)}
_REDUCER: OptionFields = {"keep_dims": (0, "bool", False)}

#: Operator -> its options. Kinds beside those of numbers: "padding", "activation", "integers".
OPTIONS: dict[str, OptionFields] = {
    "CONV_2D": {"padding": (0, "padding", 0), "stride_w": (1, "int32", 0), "stride_h": (2, "int32", 0),
                "fused_activation": (3, "activation", 0), "dilation_w": (4, "int32", 1),
                "dilation_h": (5, "int32", 1)},
    "DEPTHWISE_CONV_2D": {"padding": (0, "padding", 0), "stride_w": (1, "int32", 0), "stride_h": (2, "int32", 0),
                          "depth_multiplier": (3, "int32", 0), "fused_activation": (4, "activation", 0),
                          "dilation_w": (5, "int32", 1), "dilation_h": (6, "int32", 1)},
    "CONV_3D": {"padding": (0, "padding", 0), "stride_d": (1, "int32", 0), "stride_w": (2, "int32", 0),
                "stride_h": (3, "int32", 0), "fused_activation": (4, "activation", 0), "dilation_d": (5, "int32", 1),
                "dilation_w": (6, "int32", 1), "dilation_h": (7, "int32", 1)},
    "TRANSPOSE_CONV": {"padding": (0, "padding", 0), "stride_w": (1, "int32", 0), "stride_h": (2, "int32", 0),
                       "fused_activation": (3, "activation", 0)},
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _POOLING),
    "FULLY_CONNECTED": {"fused_activation": (0, "activation", 0), "weights_format": (1, "int8", 0),
                        "keep_num_dims": (2, "bool", False), "asymmetric_quantize_inputs": (3, "bool", False)},
    "BATCH_MATMUL": {"adj_x": (0, "bool", False), "adj_y": (1, "bool", False)},
    "SOFTMAX": {"beta": (0, "float32", 0.0)},
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "L2_NORMALIZATION", "RNN"), _FUSED_FIRST),
    "CONCATENATION": {"axis": (0, "int32", 0), "fused_activation": (1, "activation", 0)},
    "RESHAPE": {"new_shape": (0, "integers", 0)},
    "SQUEEZE": {"squeeze_dims": (0, "integers", 0)},
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), _REDUCER),
    "GATHER": {"axis": (0, "int32", 0), "batch_dims": (1, "int32", 0)},
    "PACK": {"values_count": (0, "int32", 0), "axis": (1, "int32", 0)},
    "UNPACK": {"num": (0, "int32", 0), "axis": (1, "int32", 0)},
    "SPLIT": {"num_splits": (0, "int32", 0)},
    "SPLIT_V": {"num_splits": (0, "int32", 0)},
    "CAST": {"in_data_type": (0, "int8", 0), "out_data_type": (1, "int8", 0)},
    "ARG_MAX": {"output_type": (0, "int8", 0)},
    "ARG_MIN": {"output_type": (0, "int8", 0)},
    "LEAKY_RELU": {"alpha": (0, "float32", 0.0)},
    "GELU": {"approximate": (0, "bool", False)},
    "CUMSUM": {"exclusive": (0, "bool", False), "reverse": (1, "bool", False)},
    "MIRROR_PAD": {"mode": (0, "int8", 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, "bool", False), "half_pixel_centers": (3, "bool", False)},
    "RESIZE_NEAREST_NEIGHBOR": {"align_corners": (0, "bool", False), "half_pixel_centers": (1, "bool", False)},
    "STRIDED_SLICE": {"begin_mask": (0, "int32", 0), "end_mask": (1, "int32", 0), "ellipsis_mask": (2, "int32", 0),
                      "new_axis_mask": (3, "int32", 0), "shrink_axis_mask": (4, "int32", 0),
                      "offset": (5, "bool", False)},
    "SPACE_TO_DEPTH": {"block_size": (0, "int32", 0)},
    "DEPTH_TO_SPACE": {"block_size": (0, "int32", 0)},
    "SVDF": {"rank": (0, "int32", 0), "fused_activation": (1, "activation", 0)},
    "UNIDIRECTIONAL_SEQUENCE_RNN": {"time_major": (0, "bool", False), "fused_activation": (1, "activation", 0)},
    "LSTM": {"fused_activation": (0, "activation", 0), "cell_clip": (1, "float32", 0.0),
             "proj_clip": (2, "float32", 0.0), "kernel_type": (3, "int8", 0)},
    "UNIDIRECTIONAL_SEQUENCE_LSTM": {"fused_activation": (0, "activation", 0), "cell_clip": (1, "float32", 0.0),
                                     "proj_clip": (2, "float32", 0.0), "time_major": (3, "bool", False)},
    "BIDIRECTIONAL_SEQUENCE_LSTM": {"fused_activation": (0, "activation", 0), "merge_outputs": (3, "bool", False),
                                    "time_major": (4, "bool", False)},
    "IF": {"then_subgraph": (0, "int32", 0), "else_subgraph": (1, "int32", 0)},
    "WHILE": {"cond_subgraph": (0, "int32", 0), "body_subgraph": (1, "int32", 0)},
    "CALL_ONCE": {"init_subgraph": (0, "int32", 0)},
}
