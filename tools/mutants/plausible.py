"""Mistakes that somebody could make in earnest; each must be noticed by the tests that are named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A mistake in one place or several.

    Attributes:
        name: what it is about.
        edits: (module, text that it holds exactly once, text instead).
        tests: the tests that notice, as pytest takes them.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


RUNTIME = "tests/runtime"
SAME_BITS = f"{RUNTIME}/test_same_bits.py"
WILD = f"{SAME_BITS}::test_values_are_the_plain_loops[wild]"
ODD = f"{SAME_BITS}::test_values_are_the_plain_loops[odd]"
WIDE = f"{SAME_BITS}::test_two_workers_have_the_plain_loops_values"
SHORT = "tests/frameworks/test_plain_loop.py::test_a_run_has_the_plain_loops_values[pytorch-short_batches]"
DEATHS = f"{RUNTIME}/processes/test_deaths.py::test_a_death_in_every_phase_of_every_slot[adamw]"

PLAUSIBLE: tuple[Mistake, ...] = (
    # What the result is: wrong alike on any number of workers.
    Mistake(
        "a short batch is divided by a whole one's size",
        (("runtime/worker/slot.py",
          "gradients, float(self._totals(round_)[WEIGHT])\n            self._update.apply",
          "gradients, float(self._job.batch_size)\n            self._update.apply"),),
        (WILD,),
    ),
    Mistake(
        "a short batch is cut anew",
        (
            ("partition/batches.py",
             "batch[microbatch * self.microbatch_size : (microbatch + 1) * self.microbatch_size]",
             "batch[microbatch * (size := -(-len(batch) // self.microbatches)) : (microbatch + 1) * size]"),
            ("partition/batches.py", "-(-self.samples(step) // self.microbatch_size)",
             "-(-self.samples(step) // -(-self.samples(step) // self.microbatches))"),
        ),
        ("tests/partition/test_batches.py",),
    ),
    Mistake(
        "losses are averaged over microbatches, whatever their weights",
        (("frameworks/pytorch/passes.py", "return result * samples, float(samples)", "return result, 1.0"),),
        (ODD,),
    ),
    Mistake(
        "averaged buffers are replaced by sample counts",
        (("runtime/worker/partial_sums.py",
          "self._sums[buffer, place] *= samples", "self._sums[buffer, place] = samples"),),
        (WILD,),
    ),
    Mistake(
        "buffers are averaged over microbatches, not samples",
        (
            ("runtime/worker/partial_sums.py",
             "self._sums[buffer, place] *= samples", "self._sums[buffer, place] *= 1"),
            ("runtime/worker/buffer_average.py", "float(totals[SAMPLES])", "len(sums)"),
        ),
        (ODD,),
    ),
    Mistake(
        "a buffer gets another one's values",
        (("runtime/worker/buffer_average.py", "(sums[places[index]]", "(sums[: new[index].size]"),),
        (WILD,),
    ),
    Mistake(
        "a step's buffers are written over the last one's",
        (("runtime/worker/buffer_average.py", "state.buffers(updates + 1)", "state.buffers(updates)"),),
        (WILD,),
    ),
    Mistake(
        "the same dropout masks in every step",
        (
            ("runtime/worker/microbatch.py", '("compute", round_.step)', '("compute",)'),
        ),
        (WILD,),
    ),
    Mistake(
        "the same augmentation in every epoch",
        (("runtime/loader/samples.py", '("sample", epoch), ("collate"', '("sample",), ("collate"'),),
        (SHORT,),
    ),
    Mistake(
        "the same order in every epoch",
        (("partition/order.py", 'key(seed, "order", epoch)', 'key(seed, "order")'),),
        ("tests/partition/test_order.py",),
    ),
    Mistake(
        "other keys than those of the last version",
        (("partition/keys.py", "digest_size=8", "digest_size=7"),),
        ("tests/partition/test_golden.py",),
    ),
    Mistake(
        "sums one after another instead of along the tree",
        (
            ("gradients/tree.py", "    return form(top or root(total))\n",
             "    parts = [owned[node] for node in sorted(owned, key=lambda node: node.start)]\n"
             "    while len(parts) > 1:\n        parts[:2] = [(parts[0], parts[1])]\n"
             "    return form(top) if top else parts[0]\n"),
        ),
        ("tests/gradients/test_tree.py",),
    ),
    Mistake(
        "a partial norm a piece, so that the norm follows the slots",
        (
            ("gradients/norms.py",
             "        out[:whole] = halved(rows_added(squares[: whole * BLOCK].reshape(whole, BLOCK)))\n",
             "        out[:whole] = 0\n        out[0] = squares[: whole * BLOCK].sum()\n"),
        ),
        (WIDE,),
    ),
    Mistake(
        "clipping without what keeps it from dividing by nothing",
        (("gradients/norms.py", "limit / (norm + 1e-6)", "limit / norm"),),
        (WIDE,),
    ),
    Mistake(
        "a schedule's rate is reported, and not used",
        (("frameworks/pytorch/chunks.py", "            own.update(settings(self._master.param_groups[index]))\n",
          "            pass\n"),),
        (WIDE,),
    ),
    Mistake(
        "an optimizer's own settings are not kept",
        (("frameworks/pytorch/whole.py", "self.own.setdefault(group, set()).update(names)", "pass"),),
        ("tests/own_code/test_optimizers.py::test_its_state_outlives_workers[prodigy]",),
    ),
    Mistake(
        "schedules count evaluations too",
        (("runtime/worker/lr_schedule.py", "if past.evaluation is None:", "if past.evaluation is None or past.last:"),),
        (WIDE,),
    ),
    Mistake(
        "numbers of an optimizer's state are read as they are written",
        (("runtime/worker/update.py",
          "scalars(round_.step + 1)\n        factor", "scalars(round_.step)\n        factor"),),
        (f"{SAME_BITS}::test_optimizers_agree_with_plain_pytorch[adamw]",),
    ),
    Mistake(
        "evaluation in training mode",
        (("frameworks/pytorch/passes.py", "        self.modes.evaluate()\n", ""),),
        (WILD,),
    ),
    Mistake(
        "an evaluation's values are those of its last wave",
        (("runtime/worker/evaluation.py", "sums[round_.wave + 1 & 1] if round_.wave else 0", "0"),),
        (WILD,),
    ),
    Mistake(
        "a metric's value is made of another one's sums",
        (("runtime/worker/round_record.py", "ratio(totals[METRICS + 2 * index], totals[METRICS + 2 * index + 1])",
          "ratio(totals[METRICS + index], totals[METRICS + index + 1])"),),
        (SHORT,),
    ),
    # Deaths.
    Mistake(
        "an interrupted update goes on from half-written values",
        (("runtime/worker/update.py", "                chunk.restore()\n", "                pass\n"),),
        (DEATHS,),
    ),
    Mistake(
        "an heir's heir owns nothing",
        (("runtime/rules/plan.py", "    while (heir := heir_of(member)) is not None:\n",
          "    if (heir := heir_of(member)) is not None:\n"),),
        (f"{RUNTIME}/rules/test_plan.py::test_no_order_of_events_goes_wrong",),
    ),
    Mistake(
        "a plan is overwritten under its old number",
        (("runtime/state/plan_board.py",
          "        area[0] = 0\n        fence()\n        for index", "        for index"),),
        (f"{RUNTIME}/state/test_plan_board.py",),
    ),
    Mistake(
        "deaths at different work count together",
        (("runtime/rules/crew.py", "w is None or w.round >= work.round", "True"),),
        (f"{RUNTIME}/rules/test_crew.py",),
    ),
    # Checkpoints.
    Mistake(
        "a file is renamed before it is on disk",
        (
            ("checkpoint/parameters.py", "        os.fsync(file.fileno())\n", ""),
            ("checkpoint/parameters.py", "        aside.replace(path)\n",
             "        aside.replace(path)\n        sync(path)\n"),
        ),
        ("tests/checkpoint",),
    ),
    Mistake(
        "a checkpoint is renamed before all of it is on disk",
        (("checkpoint/store.py", "        sync(aside / STATE)\n        sync(aside)\n", ""),),
        ("tests/checkpoint",),
    ),
    Mistake(
        "old checkpoints go before the new one is there",
        (
            ("checkpoint/keeper.py", "            store.write(",
             "            store.prune(folder, self.settings.keep, set())\n            store.write("),
            ("checkpoint/keeper.py",
             '            store.prune(folder, self.settings.keep, {best["step"]} if best else set())\n', ""),
        ),
        ("tests/checkpoint",),
    ),
    Mistake(
        "a copy is made at every step",
        (("checkpoint/keeper.py", "standing.step % every == 0 and ", ""),),
        ("tests/checkpoint",),
    ),
    Mistake(
        "a damaged file is believed",
        (("checkpoint/store.py", "    if not agrees:\n", "    if not path.exists():\n"),),
        ("tests/runs/test_train.py::test_a_damaged_checkpoint_is_named_and_an_older_one_used",),
    ),
    Mistake(
        "a resumed run begins with a new optimizer",
        (("runs/observation.py", "self.resumed.optimizer.arrays, standing.step)", "{}, standing.step)"),),
        ("tests/runs/test_train.py::test_a_resumed_run_has_the_bits_of_the_undisturbed_one",),
    ),
    # Several hosts, and memory.
    Mistake(
        "the sums over all hosts are waited for once more",
        (("runtime/rules/plan.py", "plan.hosts and exchanged < target", "plan.hosts and exchanged <= target"),),
        (f"{RUNTIME}/rules/test_plan.py::test_no_order_of_events_goes_wrong",),
    ),
    Mistake(
        "what other hosts used goes into a slot's row",
        (("hosts/exchange.py", "used[-1] = others", "used[-2] = others"),),
        ("tests/hosts/test_exchange.py",),
    ),
    Mistake(
        "the sums of the last round are taken for this one's",
        (("hosts/ready_sums.py", "now.round == self._plan.round and ", ""),),
        ("tests/hosts/test_ready_sums.py",),
    ),
    Mistake(
        "as many copies are asked for as there are hosts",
        (("runtime/state/host_shares.py", "return int(self._area[2])", "return int(self._area[1])"),),
        (f"{RUNTIME}/state/test_host_shares.py",),
    ),
    Mistake(
        "a structure of many arrays is read from the wrong place",
        (("memory/packing.py", "raw, 16), 16 + 8 * count", "raw, 16), 16 + 9 * count"),),
        ("tests/memory/test_packing.py",),
    ),
)  # fmt: skip
