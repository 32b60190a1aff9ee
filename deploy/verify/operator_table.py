"""Which TFLite operator runs where, as data.

Probed, not remembered: see `PROBED_ON`; tests/deploy/test_operators.py asks the installed runtimes again.
"""

from __future__ import annotations

#: What was asked, by a file of one operator each, swapped in and run.
PROBED_ON = {"tflm": "tflite_micro 0.dev20261023182759", "litert": "ai-edge-litert 2.3.0"}

#: Built-in operators that TFLite Micro's package registers; their Add methods follow by rule, save for the exceptions.
TFLM_REGISTERED: tuple[str, ...] = (
    "ABS",
    "ADD",
    "ADD_N",
    "ARG_MAX",
    "ARG_MIN",
    "ASSIGN_VARIABLE",
    "AVERAGE_POOL_2D",
    "BATCH_MATMUL",
    "BATCH_TO_SPACE_ND",
    "BROADCAST_ARGS",
    "BROADCAST_TO",
    "CALL_ONCE",
    "CAST",
    "CEIL",
    "CONCATENATION",
    "CONV_2D",
    "COS",
    "CUMSUM",
    "DEPTHWISE_CONV_2D",
    "DEPTH_TO_SPACE",
    "DEQUANTIZE",
    "DIV",
    "DYNAMIC_UPDATE_SLICE",
    "ELU",
    "EMBEDDING_LOOKUP",
    "EQUAL",
    "EXP",
    "EXPAND_DIMS",
    "FILL",
    "FLOOR",
    "FLOOR_DIV",
    "FLOOR_MOD",
    "FULLY_CONNECTED",
    "GATHER",
    "GATHER_ND",
    "GREATER",
    "GREATER_EQUAL",
    "HARD_SWISH",
    "IF",
    "L2_NORMALIZATION",
    "L2_POOL_2D",
    "LEAKY_RELU",
    "LESS",
    "LESS_EQUAL",
    "LOG",
    "LOGICAL_AND",
    "LOGICAL_NOT",
    "LOGICAL_OR",
    "LOGISTIC",
    "LOG_SOFTMAX",
    "MAXIMUM",
    "MAX_POOL_2D",
    "MEAN",
    "MINIMUM",
    "MIRROR_PAD",
    "MUL",
    "NEG",
    "NOT_EQUAL",
    "PACK",
    "PAD",
    "PADV2",
    "PRELU",
    "QUANTIZE",
    "READ_VARIABLE",
    "REDUCE_ALL",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RELU",
    "RELU6",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "REVERSE_V2",
    "ROUND",
    "RSQRT",
    "SELECT_V2",
    "SHAPE",
    "SIN",
    "SLICE",
    "SOFTMAX",
    "SPACE_TO_BATCH_ND",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SPLIT_V",
    "SQRT",
    "SQUARE",
    "SQUARED_DIFFERENCE",
    "SQUEEZE",
    "STRIDED_SLICE",
    "SUB",
    "SUM",
    "SVDF",
    "TANH",
    "TRANSPOSE",
    "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "UNPACK",
    "VAR_HANDLE",
    "WHILE",
    "ZEROS_LIKE",
)
#: Where the Add method is not the operator's name in camel case.
METHOD_EXCEPTIONS = {
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "BATCH_MATMUL": "AddBatchMatMul",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
#: Custom operators of TFLite Micro's own signal library and others -> Add method.
TFLM_CUSTOM = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
    "SignalDelay": "AddDelay",
    "SignalEnergy": "AddEnergy",
    "SignalFftAutoScale": "AddFftAutoScale",
    "SignalFramer": "AddFramer",
    "SignalIrfft": "AddIrfft",
    "SignalOverlapAdd": "AddOverlapAdd",
    "SignalRfft": "AddRfft",
    "SignalStacker": "AddStacker",
    "SignalWindow": "AddWindow",
}
#: Element types of the first input that TFLite Micro's kernel refuses, most of them only when it runs.
TFLM_REFUSES = {
    **dict.fromkeys(
        ("NEG", "SQRT", "SQUARE", "LOG", "EXP", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "FLOOR_DIV", "FLOOR_MOD"),
        ("int8", "int16"),
    ),
    **dict.fromkeys(
        (
            "HARD_SWISH",
            "ELU",
            "LOG_SOFTMAX",
            "L2_NORMALIZATION",
            "ZEROS_LIKE",
            "DIV",
            "PRELU",
            "LESS",
            "EQUAL",
            "NOT_EQUAL",
            "REDUCE_MAX",
            "REDUCE_MIN",
        ),
        ("int16",),
    ),
}
#: The same for LiteRT (both kernels).
LITERT_REFUSES = {
    **dict.fromkeys(("SQUARE", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "SIGN", "POW", "ZEROS_LIKE"), ("int8", "int16")),
    **dict.fromkeys(
        ("HARD_SWISH", "ELU", "LOG_SOFTMAX", "L2_NORMALIZATION", "RELU_N1_TO_1", "RELU_0_TO_1", "SQUARED_DIFFERENCE"),
        ("int16",),
    ),
}
#: Built-in operators that LiteRT's reference resolver alone leaves out.
REFERENCE_LACKS = ("BROADCAST_TO", "CEIL", "ELU", "ROUND", "SEGMENT_SUM")
#: Operators of the schema that no interpreter of LiteRT runs (besides most of STABLEHLO).
LITERT_LACKS = ("CALL", "CONCAT_EMBEDDINGS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE")
#: STABLEHLO operators that LiteRT has kernels for.
LITERT_STABLEHLO = (
    "STABLEHLO_ADD",
    "STABLEHLO_MULTIPLY",
    "STABLEHLO_MAXIMUM",
    "STABLEHLO_MINIMUM",
    "STABLEHLO_SCATTER",
    "STABLEHLO_PAD",
    "STABLEHLO_REDUCE_WINDOW",
    "STABLEHLO_GATHER",
    "STABLEHLO_RNG_BIT_GENERATOR",
    "STABLEHLO_COMPOSITE",
)
