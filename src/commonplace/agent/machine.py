"""The machine an agent runs on: what of it is offered, measured by psutil, and what its CPUs can do."""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta, Struct

from commonplace.agent.pci import ClassOf, Picked
from commonplace.core.complaints import complaint
from commonplace.core.records.fields import Labels, Traits
from commonplace.core.resources import Inventory, ratio_thousandths
from commonplace.errors import SettingsError
from commonplace.files import read_tree

Fraction = Annotated[float, Meta(ge=0, lt=1)]
Argv = Annotated[tuple[str, ...], Meta(max_length=256)]


class HostDriverSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of the machine is offered, and how its instances are run."""

    disk_path: str = "/"
    """The file system whose size is the host's disk."""
    reserved_cpu_share: Fraction = 0.0
    """Share of the CPUs kept for the host itself; rounded up to whole CPUs."""
    reserved_memory_share: Fraction = 0.1
    """Share of the memory kept for the host: kernel, agent, page cache."""
    reserved_disk_share: Fraction = 0.1
    """Share of the disk kept for the host: images, logs."""
    cpu_allocation_ratio: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """How many vCPU are sold for each CPU; at most three decimals."""
    memory_allocation_ratio: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """As for CPUs; memory sold twice ends in swapping."""
    disk_allocation_ratio: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """As for CPUs; above 1 where images are thin."""
    cpus_dedicated: str = ""
    """CPUs that one instance has to itself each, as in "4-7": offered as PCPU, the others as VCPU. Needs `numa`."""
    numa: bool = False
    """Report the machine's NUMA cells, from sysfs: instances may ask for cells, and start commands are told {cpus} and {numa_nodes}."""
    devices: Annotated[dict[Picked, ClassOf], Meta(max_length=64)] = {}
    """PCI devices offered: `VENDOR:PRODUCT`, or `VENDOR` for its GPUs, with their class ("": CUSTOM_PCI_VENDOR_PRODUCT)."""
    traits: Traits = ()
    """Traits beside those of the CPU."""
    labels: Labels = {}
    """Zone, rack …"""
    start_command: Argv = ()
    """Starts an instance; exit 0 when it runs. Empty: instances are only accounted for."""
    stop_command: Argv = ()
    """Stops an instance; exit 0 also when it did not run."""
    list_command: Argv = ()
    """Prints the running instances; empty: nobody looks."""
    command_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    """A command that runs for longer is killed and counts as failed: longer than a slow boot."""
    list_interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """How often the running instances are listed: half a heartbeat."""


SYSTEM_FILE = Path("/etc/commonplace-driver.toml")
"""Read where no file is named, as /etc/commonplace.toml is: the same unit serves hosts with commands and without."""


def load_settings(path: Path | None, system_file: Path = SYSTEM_FILE) -> HostDriverSettings:
    """The driver's settings from a TOML file, else from the system's, the defaults without either; SettingsError names file and key."""
    if path is None:
        if not system_file.exists():
            return HostDriverSettings()
        path = system_file
    tree = read_tree(path)
    try:
        return msgspec.convert(tree, HostDriverSettings, str_keys=True)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {complaint(str(error))}") from error


def measure(settings: HostDriverSettings) -> dict[str, Inventory]:
    """This machine's CPUs, memory and disk with the shares reserved, in integers."""
    try:
        disk = psutil.disk_usage(settings.disk_path).total
    except OSError as error:
        raise SettingsError(f"disk_path {settings.disk_path!r}: {error.strerror}: name a mounted directory") from error
    return {
        "VCPU": _share(psutil.cpu_count() or 1, settings.reserved_cpu_share, settings.cpu_allocation_ratio),
        "MEMORY_MB": _share(
            psutil.virtual_memory().total // 2**20, settings.reserved_memory_share, settings.memory_allocation_ratio
        ),
        "DISK_GB": _share(disk // 2**30, settings.reserved_disk_share, settings.disk_allocation_ratio),
    }


def _share(total: int, reserved: float, ratio: float) -> Inventory:
    """Reserved is rounded up: what the host needs is never sold."""
    kept = int((Decimal(str(reserved)) * total).to_integral_value(ROUND_CEILING))
    return Inventory(total=total, reserved=kept, allocation_ratio_thousandths=ratio_thousandths(ratio))


def cpu_traits(flags: set[str]) -> set[str]:
    """Traits of a CPU with these Linux flags."""
    traits = {CPU_TRAITS[flag] for flag in flags & set(CPU_TRAITS)}
    if "avx512f" in flags:
        traits |= {f"HW_CPU_X86_{trait}" for flag, trait in _WITH_AVX512.items() if flag in flags}
    return traits


def cpu_flags() -> set[str]:
    """Linux's flags of this machine's first CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()  # no Linux: the operator names traits in the settings
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def measured_load() -> dict[str, float]:
    """Shares in use (0 to 1): CPUs since the last call, memory; `load1` is the run queue over one minute."""
    return {
        "cpu_share": round(psutil.cpu_percent() / 100, 4),
        "memory_share": round(psutil.virtual_memory().percent / 100, 4),
        "load1": round(psutil.getloadavg()[0], 2),
    }


def disk_share(path: str) -> float:
    """Share in use of a file system; OSError while it can't be asked."""
    return round(psutil.disk_usage(path).percent / 100, 4)


CPU_TRAITS: Mapping[str, str] = {
    flag: f"HW_CPU_X86_{trait}"
    for flag, trait in {
        "3dnow": "3DNOW",
        "abm": "ABM",
        "aes": "AESNI",
        "amx_bf16": "AMXBF16",
        "amx_int8": "AMXINT8",
        "amx_tile": "AMXTILE",
        "avx": "AVX",
        "avx2": "AVX2",
        "avx512_bitalg": "AVX512BITALG",
        "avx512bw": "AVX512BW",
        "avx512cd": "AVX512CD",
        "avx512dq": "AVX512DQ",
        "avx512er": "AVX512ER",
        "avx512f": "AVX512F",
        "avx512ifma": "AVX512IFMA",
        "avx512pf": "AVX512PF",
        "avx512vbmi": "AVX512VBMI",
        "avx512_vbmi2": "AVX512VBMI2",
        "avx512vl": "AVX512VL",
        "avx512_vnni": "AVX512VNNI",
        "avx512_vpopcntdq": "AVX512VPOPCNTDQ",
        "bmi1": "BMI",
        "bmi2": "BMI2",
        "f16c": "F16C",
        "fma": "FMA3",
        "fma4": "FMA4",
        "mmx": "MMX",
        "mpx": "MPX",
        "pclmulqdq": "CLMUL",
        "pdpe1gb": "PDPE1GB",
        "pni": "SSE3",
        "rtm": "TSX",
        "sgx": "SGX",
        "sha_ni": "SHA",
        "sse": "SSE",
        "sse2": "SSE2",
        "sse4_1": "SSE41",
        "sse4_2": "SSE42",
        "sse4a": "SSE4A",
        "ssse3": "SSSE3",
        "stibp": "STIBP",
        "svm": "SVM",
        "tbm": "TBM",
        "vmx": "VMX",
        "xop": "XOP",
    }.items()
}
"""Linux's names of CPU flags (/proc/cpuinfo) to the names of os-traits."""

# os-traits has these only as parts of AVX-512; the flags alone exist on CPUs without it
_WITH_AVX512 = {"gfni": "AVX512GFNI", "vaes": "AVX512VAES", "vpclmulqdq": "AVX512VPCLMULQDQ"}
