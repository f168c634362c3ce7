"""The compatibility matrix is what the contract suite's reports say."""

from __future__ import annotations

from frameworks.matrix import matrix, results

ONE = """<testsuites><testsuite>
<testcase classname="tests.frameworks.test_contract" name="test_same_bits[keras]"/>
<testcase classname="tests.frameworks.test_contract" name="test_kinds[pytorch-adam]"/>
<testcase classname="tests.frameworks.test_contract" name="test_kinds[pytorch-sgd]"><failure/></testcase>
<testcase classname="tests.frameworks.test_contract" name="test_same_bits[mxnet]"><skipped/></testcase>
<testcase classname="tests.frameworks.test_keras" name="test_own[keras]"/>
</testsuite></testsuites>"""
OTHER = ONE.replace("<skipped/>", "").replace("[keras]", "[pytorch]")


def test_reports_of_several_environments_make_one_table() -> None:
    kits = ["keras", "pytorch", "mxnet"]
    found = [*results(ONE, kits), *results(OTHER, kits)]
    lines = matrix(found).splitlines()
    assert lines[0] == "| promise | keras | mxnet | pytorch |"
    assert lines[2] == "| same bits | ✓ | ✓ | ✓ |"
    assert lines[3] == "| kinds | – | – | ✗ 2 of 4 |"
    assert len(lines) == 6


def test_a_label_names_the_column_and_skips_say_nothing() -> None:
    found = list(results(ONE, ["keras", "mxnet"], "Keras on JAX"))
    assert [(result.framework, result.outcome) for result in found] == [("Keras on JAX", "passed")]
