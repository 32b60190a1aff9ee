from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgepress.deploy.export.to_c import c_source, write_c
from edgepress.models.errors import UsageError
from tests.deploy.small_models import chain, unary

#: What the generated header uses of TFLite Micro, and nothing more: an unknown method is a compiler's error.
STUB = """#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
template <unsigned int n> class MicroMutableOpResolver {
 public:
  TfLiteStatus AddPad() { return kTfLiteOk; }
  TfLiteStatus AddRelu() { return kTfLiteOk; }
  TfLiteStatus AddSlice() { return kTfLiteOk; }
};
}
"""
CHECK = """#include "net.h"
#include <cstdint>
#include <cstdio>
int main() {
  NetResolver resolver;
  if (RegisterNetOperators(resolver) != kTfLiteOk) return 1;
  if (reinterpret_cast<std::uintptr_t>(kNet) % 16) return 2;
  std::printf("%zu %zu ", kNetBytes, kNetArenaBytes);
  for (size_t i = 0; i < kNetBytes; ++i) std::printf("%02x", kNet[i]);
  return 0;
}
"""


def test_source_compiles_and_holds_the_file(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    pytest.importorskip("tflite_micro")
    model = chain([640, 320, 320, 960])
    source, header, made = write_c(model, tmp_path / "net.cc")
    assert made.operators == ("AddPad", "AddRelu", "AddSlice")
    stub = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB)
    (tmp_path / "main.cc").write_text(CHECK)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run([compiler, *flags, "-fsyntax-only", "-x", "c++", str(header)], check=True)
    subprocess.run([compiler, *flags, str(source), str(tmp_path / "main.cc"), "-o", str(tmp_path / "net")], check=True)
    size, arena, data = subprocess.run([tmp_path / "net"], check=True, capture_output=True, text=True).stdout.split()
    assert int(size) == len(model)
    assert bytes.fromhex(data) == model
    assert int(arena) == made.arena_bytes
    with pytest.raises(UsageError, match="exists already"):
        write_c(model, tmp_path / "net.cc")


def test_arena_is_the_measured_one_with_its_margin(shared: Path) -> None:
    pytest.importorskip("tflite_micro")
    made = c_source((shared / "data/reference_models/kws_ref_model.tflite").read_bytes(), "kws")
    assert made.arena_bytes == 26704  # 24,272 measured, + 10 %, rounded up to 16
    assert "used 24,272 bytes" in made.header
    assert "MicroMutableOpResolver<6>" in made.header


def test_resolver_holds_exactly_the_operators() -> None:
    header = c_source(chain([64, 32]), "a_b").header
    assert re.findall(r"resolver\.(\w+)\(\)", header) == ["AddSlice"]
    assert "using ABResolver = tflite::MicroMutableOpResolver<1>;" in header


@pytest.mark.parametrize("stem", ["9lives", "a-b", "", "x y"])
def test_name_must_be_an_identifier(stem: str) -> None:
    with pytest.raises(UsageError, match="cannot name C"):
        c_source(chain([64, 32]), stem)


def test_file_that_tflite_micro_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="has no GELU"):
        c_source(unary("GELU"))
