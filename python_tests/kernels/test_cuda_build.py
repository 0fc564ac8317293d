"""What nvcc made of the CUDA kernels, read from the library; no GPU is needed. `make cuda` builds it and runs these tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY
from test_build import import_in_child, is_forbidden, undefined_symbols

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "kernels"))
import cuda_resources as resources

ARCHITECTURES = ["sm_80", "sm_90a", "sm_100", "sm_120"]
SYSTEM = re.compile(
    r"(libtorch|libtorch_cpu|libc10|libstdc\+\+|libm|libgcc_s|libc|libdl|librt|libpthread|ld-linux.*)\.so"
)


@pytest.fixture(scope="module")
def library() -> Path:
    path = os.environ.get("DESC_EXT_CUDA_LIBRARY")
    if not path:
        pytest.skip("needs the library with CUDA kernels: make cuda builds it and runs this test")
    return Path(path).resolve()


@pytest.fixture(scope="module")
def kernels(library):
    return resources.read_kernels(library)[0]


@pytest.fixture(scope="module")
def budgets():
    return resources.read_budgets(REPOSITORY / "csrc" / "cuda")


def in_child(library: Path, expression: str):
    """The value of an expression in a process that has loaded torch and the library, and sees no GPU."""
    code = f"import json, torch; torch.ops.load_library({str(library)!r}); print(json.dumps({expression}))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


# The library


def test_package_imports_without_gpu_and_driver(library, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(REPOSITORY / "desc_ext", tmp_path / "desc_ext", ignore=ignore)
    shutil.copy(library, tmp_path / "desc_ext")
    child = import_in_child(tmp_path)
    assert child.returncode == 0, child.stderr
    assert str(tmp_path) in child.stdout


def test_every_operator_with_a_cpu_kernel_has_a_cuda_kernel(library):
    names = "[n for n in torch._C._dispatch_get_all_op_names() if n.startswith('desc_ext::')]"
    has = "{n: [torch._C._dispatch_has_kernel_for_dispatch_key(n, key) for key in ('CPU', 'CUDA')]"
    registered = in_child(library, f"{has} for n in {names}}}")
    assert sum(cpu for cpu, _ in registered.values()) >= 17
    differing = {name: f"CPU {cpu}, CUDA {cuda}" for name, (cpu, cuda) in registered.items() if cpu != cuda}
    assert not differing


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_needs_neither_driver_nor_unstable_torch(library):
    symbols = undefined_symbols(library)
    assert [symbol for symbol in symbols if is_forbidden(symbol)] == []
    assert [symbol for symbol in symbols if re.match(r"(__)?(cu|nv)(da)?[A-Z]", symbol)] == []
    dynamic = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert needed
    assert [name for name in needed if not SYSTEM.match(name)] == []


def test_holds_the_architectures_asked_for(library):
    assert (
        in_child(library, "json.loads(torch.ops.desc_ext.build_info())['cuda_architectures']")
        == ARCHITECTURES
    )
    machine_code = resources.parse_architectures(resources.cuobjdump(library, "-lelf"))
    assert machine_code == sorted(ARCHITECTURES)
    assert resources.parse_architectures(resources.cuobjdump(library, "-lptx")) == ARCHITECTURES[-1:]


@pytest.mark.parametrize("wanted", ["1", ""])
def test_without_nvcc_cuda_is_left_out_and_an_error_where_asked_for(wanted, tmp_path):
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        pytest.skip("needs the cmake that make installs beside Python")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 9.0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DESC_EXT_CUDA": wanted, "CUDACXX": str(tmp_path / "nvcc"), "PATH": path}
    configure = [cmake, "-S", REPOSITORY, "-B", tmp_path / "build", f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(configure, capture_output=True, text=True, env=environment)
    if wanted:
        assert done.returncode != 0
        assert "asked for by DESC_EXT_CUDA=1, but no nvcc" in done.stderr
        assert "CUDACXX=/path/to/nvcc" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "CUDA kernels: none (no nvcc that works was found" in done.stdout


# The kernels


def test_every_kernel_was_compiled_for_every_architecture(kernels):
    compiled = {}
    for kernel in kernels:
        compiled.setdefault(kernel.name, set()).add(kernel.architecture)
    assert compiled
    assert {name: found for name, found in compiled.items() if found != set(ARCHITECTURES)} == {}


def test_kernels_keep_within_their_budgets(kernels, budgets):
    """Registers, shared memory, no spills, the share of multiply-adds and the width of loads in main loops."""
    # Once where several files hold the same kernel.
    complaints = dict.fromkeys(text for kernel in kernels for text in resources.complaints(kernel, budgets))
    assert not complaints, "\n".join(complaints)


def test_no_budget_is_left_over(kernels, budgets):
    used = {resources.budget_of(kernel, budgets) for kernel in kernels}
    assert [budget for budget in budgets if budget not in used] == []


# The reader itself, on what cuobjdump printed for small kernels made to break the rules.

USAGE = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _Z6spillsILi120EEvPKfPfi:
  REG:64 STACK:88 SHARED:0 LOCAL:0 CONSTANT[0]:372 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z7sum_allPKfPfi:
  REG:12 STACK:0 SHARED:128 LOCAL:0 CONSTANT[0]:372 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_120
code version = [1,8]

Resource usage:
 Function _Z7sum_allPKfPfi:
  REG:14 STACK:0 SHARED:1152 LOCAL:0 CONSTANT[0]:916 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
INFO = """
Fatbin elf code:
================
arch = sm_80
.nv.info._Z7sum_allPKfPfi
\t<0x1>
\tAttribute:\tEIATTR_CUDA_API_VERSION
\tFormat:\tEIFMT_SVAL
\tValue:\t0x82 

.nv.info._Z6spillsILi120EEvPKfPfi
\t<0x13>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x100 0x2 0x1 
"""  # noqa: W291
CODE = """
Fatbin ptx code:
================
arch = sm_120

Fatbin elf code:
================
arch = sm_80
\tcode for sm_80
\t\tFunction : product_demo
\t.headerflags\t@"EF_CUDA_64BIT_ADDRESS EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                             /* 0x00000a0000017a02 */
                                                                                      /* 0x000fe40000000f00 */
        /*0010*/                   LDGSTS.E.BYPASS.128 [R3], [R36.64] ;               /* 0x00000a0000017a02 */
        /*0020*/              @!P0 BRA 0x10 ;                                         /* 0x00000a0000017a02 */
        /*0030*/                   LDS.128 R28, [R56.X16] ;                           /* 0x00000a0000017a02 */
        /*0040*/                   FFMA R84, R28, R32, R84 ;                          /* 0x00000a0000017a02 */
        /*0050*/                   FFMA2 R84, R28.F32x2, R32.F32x2, R84.F32x2 ;       /* 0x00000a0000017a02 */
        /*0060*/                   FFMA R84, R28, R32, R84 ;                          /* 0x00000a0000017a02 */
        /*0070*/                   FFMA R84, R28, R32, R84 ;                          /* 0x00000a0000017a02 */
        /*0078*/                   NOP ;                                              /* 0x00000a0000017a02 */
        /*0080*/               @P0 BRA 0x30 ;                                         /* 0x00000a0000017a02 */
        /*0090*/              @!P1 LDG.E.128.CONSTANT R4, [R2.64] ;                   /* 0x00000a0000017a02 */
        /*00a0*/                   BRA.U !UP0, 0x10 ;                                 /* 0x00000a0000017a02 */
        /*00b0*/                   EXIT ;                                             /* 0x00000a0000017a02 */
        /*00c0*/                   FFMA R84, R28, R32, R84 ;                          /* 0x00000a0000017a02 */
        /*00d0*/                   BRA 0x40 ;                                         /* 0x00000a0000017a02 */
        /*00e0*/                   BRA 0xe0;                                          /* 0x00000a0000017a02 */
"""


def kernel_with(code: str, name: str = "product_demo", **changes):
    ((_, instructions),) = resources.parse_code(code.splitlines()).items()
    values = {"architecture": "sm_80", "registers": 64, "stack": 0, "local": 0, "shared": 0, "threads": 256}
    return resources.Kernel(name=name, instructions=instructions, **{**values, **changes})


PLAN = resources.parse_budgets(
    "// budget: product_.* registers <= 64, shared <= 128 bytes, dynamic <= 40960 bytes"
)


def test_resource_report_is_read():
    usage = resources.parse_resources(USAGE.splitlines())
    assert len(usage) == 3
    spilling = usage[0, "_Z6spillsILi120EEvPKfPfi"]
    assert (spilling.registers, spilling.stack, spilling.shared) == (64, 88, 0)
    # 1,024 bytes on sm_120 are the system's.
    assert [usage[number, "_Z7sum_allPKfPfi"].shared for number in (0, 1)] == [128, 128]
    assert resources.parse_threads(INFO.splitlines()) == {(0, "_Z6spillsILi120EEvPKfPfi"): 512}


def test_main_loop_is_the_one_that_multiplies_most():
    kernel = kernel_with(CODE)
    assert len(kernel.instructions) == 16
    loop = resources.main_loop(kernel.instructions)
    # Not the copies before it, nor the loop around it, nor the jump back from behind the end.
    assert [instruction.address for instruction in loop.instructions] == list(range(0x30, 0x90, 0x10))
    assert loop.multiply_adds == 4
    assert resources.complaints(kernel, PLAN) == ["product_demo on sm_80 has 67% FFMA or DFMA among the 6 instructions of "
        "its main loop, wanted >= 70%"]  # fmt: skip


TENSOR_CODE = """
Fatbin elf code:
================
arch = sm_80
\t\tFunction : product_tensor_demo
        /*0000*/                   FFMA R1, R2, R3, R1 ;                              /* 0x00000a0000017a02 */
        /*0010*/                   LDGSTS.E.BYPASS.128 [R3], [R36.64] ;               /* 0x00000a0000017a02 */
        /*0020*/              @!P0 BRA 0x10 ;                                         /* 0x00000a0000017a02 */
        /*0030*/                   FFMA R1, R2, R3, R1 ;                              /* 0x00000a0000017a02 */
        /*0040*/                   LDSM.16.M88.4 R28, [R56] ;                         /* 0x00000a0000017a02 */
        /*0050*/                   HMMA.16816.F32 R4, R28, R32, RZ ;                  /* 0x00000a0000017a02 */
        /*0060*/                   FFMA R1, R2, R3, R1 ;                              /* 0x00000a0000017a02 */
        /*0070*/                   HMMA.16816.F32 R4, R28, R32, R4 ;                  /* 0x00000a0000017a02 */
        /*0080*/                   FFMA R1, R2, R3, R1 ;                              /* 0x00000a0000017a02 */
        /*0090*/               @P0 BRA 0x0 ;                                          /* 0x00000a0000017a02 */
        /*00a0*/                   HMMA.16816.F32 R4, R28, R32, R4 ;                  /* 0x00000a0000017a02 */
        /*00b0*/                   EXIT ;                                             /* 0x00000a0000017a02 */
"""


def test_main_loop_on_tensor_cores_is_the_stretch_of_products():
    """From the first load of a fragment to the last product of the loop over stages: not the loop inside that copies."""
    kernel = kernel_with(TENSOR_CODE, name="product_tensor_demo<3>")
    loop = resources.main_loop(kernel.instructions)
    assert [instruction.address for instruction in loop.instructions] == [0x40, 0x50, 0x60, 0x70]
    assert resources.complaints(kernel, PLAN) == []
    diluted = kernel_with(
        TENSOR_CODE.replace(
            "/*0060*/                   FFMA",
            "/*0060*/                   FFMA R9, R9, R9, R9 ;\n        /*0068*/   FFMA",
        ),
        name="product_tensor_demo<3>",
    )
    assert (
        "40% HMMA among the 5 instructions of its main loop, wanted >= 45%"
        in resources.complaints(diluted, PLAN)[0]
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("LDS.128 R28", "FFMA R28", None),
        ("FFMA2 R84", "FMUL R84", "50% FFMA or DFMA"),
        ("FFMA", "FADD", "no loop that multiplies and adds"),
        ("LDS.128 R28", "LDS.64 R28", "fewer than 128 bits in its main loop: LDS.64"),
        ("LDS.128 R28", "LDG.E.CONSTANT R28", "fewer than 128 bits in its main loop: LDG.E.CONSTANT"),
        ("MOV R1, c[0x0][0x28]", "STL [R1], R3", "reads or writes local memory 1 times"),
        ("MOV R1, c[0x0][0x28]", "LDL.LU R4, [R1+0x8]", "reads or writes local memory 1 times"),
    ],
)
def test_code_that_breaks_a_rule_is_reported(old, new, complaint):
    found = resources.complaints(kernel_with(CODE.replace(old, new)), PLAN)
    assert any(complaint in text for text in found) if complaint else not found


def test_a_distance_may_subtract_and_a_plan_may_load_less_at_once():
    code = CODE.replace("FFMA R84, R28, R32, R84 ; ", "FADD R84, R28, R32 ; ").replace(
        "LDS.128 R28", "FADD R28"
    )
    assert "FFMA or DFMA" in resources.complaints(kernel_with(code), PLAN)[0]
    assert resources.complaints(kernel_with(code, name="product_distances<float>"), PLAN) == []
    narrow = kernel_with(CODE.replace("LDS.128 R28", "LDS.64 R28"))
    assert any("LDS.64" in text for text in resources.complaints(narrow, PLAN))
    allowing = resources.parse_budgets("// budget: product_.* registers <= 64, shared <= 0, narrow loads")
    assert not any("LDS.64" in text for text in resources.complaints(narrow, allowing))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"registers": 65}, "takes 65 registers, planned <= 64"),
        ({"shared": 129}, "takes 129 bytes shared, planned <= 128"),
        ({"stack": 88}, "keeps 88 bytes on the stack"),
        ({"local": 8}, "8 in local memory"),
        ({"threads": None}, "no __launch_bounds__"),
        ({"name": "other"}, "no budget line"),
        ({"name": "product_tensor_values<3>"}, "0% HMMA"),
    ],
)
def test_resources_over_the_plan_are_reported(changes, complaint):
    good = CODE.replace("LDS.128 R28", "FFMA R28")
    assert resources.complaints(kernel_with(good), PLAN) == []
    assert any(complaint in text for text in resources.complaints(kernel_with(good, **changes), PLAN))


def test_a_plan_that_cannot_be_launched_is_reported():
    plan = resources.parse_budgets("// budget: product_.* registers <= 64, shared <= 0, dynamic <= 200000")
    (complaint,) = resources.complaints(kernel_with(CODE.replace("LDS.128 R28", "FFMA R28")), plan)
    assert "cannot be launched" in complaint
    assert (
        resources.complaints(
            kernel_with(CODE.replace("LDS.128 R28", "FFMA R28"), architecture="sm_100"), plan
        )
        == []
    )


def test_budgets_are_read_and_the_last_that_fits_counts():
    budgets = resources.parse_budgets(
        "// budget: product_.* registers <= 128, shared <= 0, dynamic <= 46080 (float)\n"
        "int x;  // budget: none of these\n"
        "// budget: product_.*<double.* registers <= 255, shared <= 16 bytes.\n"
    )
    found = {
        name: resources.budget_of(kernel_with(CODE, name=name), budgets)
        for name in ("product_rows<float>", "product_rows<double, 2>", "a_product_rows<float>")
    }
    assert [b and (b.registers, b.shared, b.dynamic) for b in found.values()] == [
        (128, 0, 46080),
        (255, 16, 0),
        None,
    ]
    with pytest.raises(ValueError, match="here: not understood: // budget: product_"):
        resources.parse_budgets("// budget: product_.* registers < 128", "here")


def test_names_are_short():
    for long, short in {
        "void desc_ext::cuda::product_values<float, (desc_ext::cuda::Metric)1>(desc_ext::cuda::Job<float>, float*)":
            "product_values<float, 1>",
        "void desc_ext::cuda::(anonymous namespace)::rows<desc_ext::cuda::Out<double>, true>(int)": "rows<Out<double>, true>",
        "desc_ext::cuda::sum_all(float const*, float*, int)": "sum_all",
    }.items():  # fmt: skip
        assert resources.short_name(long) == short


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "blocks"),
    [
        (128, 256, 46080, (2, 2, 2, 2)),
        (255, 256, 46080, (1, 1, 1, 1)),
        (64, 256, 0, (4, 4, 4, 4)),
        (32, 1024, 0, (2, 2, 2, 1)),
        (33, 96, 20000, (7, 11, 11, 4)),
        (168, 128, 0, (3, 3, 3, 3)),
        (40, 64, 1000, (24, 24, 24, 24)),
        (96, 256, 90000, (1, 2, 2, 1)),
        (16, 32, 0, (32, 32, 32, 24)),
        (120, 160, 30000, (3, 3, 3, 3)),
    ],
)
def test_occupancy_is_that_of_the_toolkit(registers, threads, shared, blocks):
    """By cudaOccMaxActiveBlocksPerMultiprocessor of CUDA 13.0's cuda_occupancy.h."""
    found = [resources.blocks_per_multiprocessor(name, registers, threads, shared) for name in ARCHITECTURES]
    assert tuple(found) == blocks
