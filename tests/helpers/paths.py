"""The folders that tests read: the project, its tests, and the real data where they are at hand."""

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
BENCHMARKS = TESTS / "benchmarks"
KUAIRAND = ROOT.parent / "shared" / "data" / "KuaiRand-Pure"
