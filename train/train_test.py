"""Tests of the training code: python3 train/train_test.py (needs torch, numpy, sentencepiece)."""

import contextlib
import io
import json
import lzma
import math
import random
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jinja2
import numpy as np
import sentencepiece as spm
import torch

import data
import distill
import emulate
import evaluate
import even_gates
import export
import prune
import quant
import release
import samples
import train
from heldout import plain_text, text_bytes, windows
from model import (
    Config, Experts, Model, Routing, balance_loss, experts_chosen, experts_dense, experts_grouped,
    to_dict, z_loss,
)  # fmt: skip
from optim import Optimiser
from prompts import EVERYDAY, KINDS, questions
from train import Run, Settings, copied, deterministic, save

SMALL = Config(
    vocab=64, hidden=64, layers=2, heads=4, kv_heads=2, ffn=32, experts=4, top_k=2, context=64
)


def stream(tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(64, (tokens,), generator=generator, dtype=torch.int32)


def run_main(module, *arguments) -> str:
    """What a program prints. An error that it exits with is in SystemExit or, from argparse, in it."""
    out = io.StringIO()
    with mock.patch("sys.argv", [module.__name__, *map(str, arguments)]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                module.main()
            except SystemExit as error:
                raise SystemExit(f"{error}: {out.getvalue()}") from None
    return out.getvalue()


class Losses(unittest.TestCase):
    def test_balance(self):
        probs = torch.tensor([[0.75, 0.25], [0.6, 0.4], [0.3, 0.7]])
        # Load 2/3 and 1/3, mean probability 0.55 and 0.45.
        value = balance_loss(probs, torch.tensor([[0], [0], [1]]))
        self.assertAlmostEqual(value.item(), 2 * (2 / 3 * 0.55 + 1 / 3 * 0.45), places=6)
        even = torch.full((4, 4), 0.25)
        choices = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
        self.assertAlmostEqual(balance_loss(even, choices).item(), 2, places=6)
        one = balance_loss(torch.eye(4)[:1], torch.tensor([[0, 1]]))
        self.assertAlmostEqual(one.item(), 4, places=6)

    def test_z(self):
        logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
        expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
        self.assertAlmostEqual(z_loss(logits).item(), expected, places=6)

    def test_losses_count_every_choice(self):
        model = Model(SMALL, seed=1)
        losses = model.losses(stream(2 * 33, 2).view(2, 33).long())
        self.assertEqual(losses.load.sum(1).tolist(), [2 * 32 * 2] * 2)
        self.assertAlmostEqual(losses.text.item(), math.log(64), delta=0.5)


class Training(unittest.TestCase):
    def test_ten_sequences_are_learnt_by_heart(self):
        for gate in ("attention", "linear"):
            model, ids = Model(replace(SMALL, gate=gate), seed=3), stream(10 * 17, 4).view(10, 17).long()
            optimiser = Optimiser(model)
            for step in range(60):
                losses = model.losses(ids)
                (losses.text + 0.01 * losses.balance + 1e-3 * losses.z).backward()
                optimiser.step(0.01 * (1 - step / 60))
                optimiser.zero_grad()
            self.assertLess(model.losses(ids).text.item(), 0.1, gate)

    def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(self):
        deterministic()
        # Quantised from step 9 on; scales are searched at 9, where they begin, and at 16.
        settings = dict(
            steps=18, batch=4, micro=2, length=16, warmup=3, decay=0.7, quantise=0.5, group=32
        )

        def new() -> Run:
            return Run(SMALL, Settings(**settings), stream(3000, 5), False, stream(1500, 6))

        whole = new()
        for _ in range(18):
            whole.do_step()
        parts = new()
        for stop in (4, 9, 11, 16, 18):
            while parts.step < stop:
                parts.do_step()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "last.pt"
                save(parts.state(), path)
                parts = new()
                parts.restore(torch.load(path, weights_only=False))
        self.assertIsNotNone(whole.model.quantiser)
        for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values()):
            self.assertTrue(torch.equal(a, b), name)

    def test_seconds_fix_the_number_of_steps_of_a_resumed_run(self):
        for seconds, repeats in ((0.01, False), (3, True)):
            settings = Settings(seconds=seconds, batch=2, micro=2, length=16, warmup=1, group=32)
            run = Run(SMALL, settings, stream(500, 5), False)
            run.step = 12  # as restored from a state that has no number of steps
            lines, clock, begin = [], mock.Mock(), run.step
            clock.monotonic.side_effect = lambda: (run.step - begin) * 0.02
            with mock.patch.object(train, "time", clock):
                train.train(run, lines.append)
            steps = 52 + max(1, round((seconds - 40 * 0.02) / 0.02))
            self.assertLessEqual(abs(settings.steps - steps), 1)
            self.assertEqual(run.step, settings.steps)
            self.assertNotEqual("too few" in "".join(lines), repeats)

    def test_a_run_without_an_end_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "small.json"
            small.write_text(json.dumps(to_dict(SMALL)))
            stream(500, 5).numpy().astype(np.uint16).tofile(Path(folder) / "train.bin")
            flags = ["--config", small, "--data", folder, "--out", folder, "--device", "cpu",
                     "--batch", 2, "--length", 16, "--group", 32]  # fmt: skip
            for extra in ([], ["--resume"], ["--steps", 2, "--seconds", 2]):
                with self.assertRaisesRegex(SystemExit, "either --steps or --seconds"):
                    run_main(train, *flags, *extra)
            settings = Settings(batch=2, micro=2, length=16, group=32)
            run = Run(SMALL, settings, stream(500, 5), False)
            save(run.state(), Path(folder) / "last.pt")
            with self.assertRaisesRegex(SystemExit, "no number of steps yet"):
                run_main(train, *flags, "--resume")
            run_main(train, *flags, "--resume", "--steps", 2)

    def test_a_copied_state_is_not_changed_by_later_steps(self):
        settings = Settings(steps=6, batch=2, micro=2, length=16, warmup=1, quantise=0.5, group=32)
        run = Run(SMALL, settings, stream(500, 5), False)
        for _ in range(4):
            run.do_step()
        kept = copied(run.state())
        before = io.BytesIO()
        torch.save(kept, before)
        run.do_step()
        after = io.BytesIO()
        torch.save(kept, after)
        self.assertEqual(before.getvalue(), after.getvalue())
        self.assertFalse(torch.equal(kept["model"]["embedding"], run.model.embedding))

    def test_batches_visit_every_token_once_in_an_epoch(self):
        batches = data.Batches(torch.arange(1000), batch=4, length=10, seed=1)
        seen = torch.cat([batches.at(step)[:, :-1].flatten() for step in range(batches.per_epoch)])
        self.assertEqual(len(seen), len(seen.unique()))
        self.assertEqual(seen.max() - seen.min() + 1, len(seen))
        first = batches.at(0)
        batches.at(batches.per_epoch)  # another epoch in between
        self.assertTrue(torch.equal(first, batches.at(0)))


class ExpertProducts(unittest.TestCase):
    def inputs(self, quantised: bool):
        generator = torch.Generator().manual_seed(7)

        def random_(*shape):
            return torch.randn(*shape, generator=generator)

        n, e, h, i = 40, 4, 64, 32
        x = random_(n, h).to(torch.bfloat16).requires_grad_()
        probs = torch.softmax(random_(n, e), -1)
        weights, experts = torch.topk(probs, 2, -1)
        routing = Routing(probs, probs, experts, weights)
        gate_up, down = random_(e, 2 * i, h) / 8, random_(e, h, i) / 6
        if quantised:
            gate, back = quant.w4x(gate_up, 32), quant.w4x(down, 32)
            folded = [quant._folded(w, 32).to(torch.bfloat16).requires_grad_() for w in (gate, back)]
            return x, routing, Experts(*folded, gate.d[..., 0], back.d[..., 0])
        folded = [w.to(torch.bfloat16).requires_grad_() for w in (gate_up, down)]
        return x, routing, Experts(*folded)

    def test_grouped_products_equal_dense_ones(self):
        for quantised in (False, True):
            results = []
            for compute in (experts_grouped, experts_dense):
                x, routing, w = self.inputs(quantised)
                try:
                    y = compute(x, routing, w)
                    y.float().square().sum().backward()
                except (RuntimeError, AttributeError, NotImplementedError) as error:
                    self.skipTest(f"not run: no grouped products here: {error}")
                results.append([t.float() for t in (y.detach(), x.grad, w.gate_up.grad, w.down.grad)])
            for a, b in zip(*results):
                self.assertLess((a - b).norm() / b.norm(), 0.02, f"quantised {quantised}")


    def test_chosen_experts_equal_dense_ones(self):
        x, routing, w = self.inputs(False)
        x, w = x.detach().float(), Experts(w.gate_up.detach().float(), w.down.detach().float())
        few = routing._replace(experts=routing.experts.clamp(0, 2))  # nobody chooses the last
        for r in (routing, few):
            r = r._replace(experts=torch.stack([r.experts[:, 0], (r.experts[:, 0] + 1) % 3], 1))
            torch.testing.assert_close(experts_chosen(x, r, w), experts_dense(x, r, w))
        model = Model(SMALL, seed=1)
        ids = stream(40, 1).view(2, 20).long()
        dense = model.logits(ids)  # gradients are on
        with torch.no_grad(), mock.patch("model.experts_chosen", wraps=experts_chosen) as used:
            torch.testing.assert_close(model.logits(ids), dense.detach())
        self.assertEqual(used.call_count, SMALL.layers)


class Quantising(unittest.TestCase):
    def weights(self, rows=48, k=192):
        rng = np.random.default_rng(9)
        w = rng.normal(size=(rows, k)).astype(np.float32)
        return w * np.exp(rng.normal(size=(rows, 1))).astype(np.float32)

    def test_formats_are_the_server_s(self):
        w = self.weights()
        cases = [
            (quant.int4(torch.tensor(w), 32), emulate.int4(w, 32).values()),
            (quant.int8(torch.tensor(w), 32), emulate.int8(w, 32).values()),
            (quant.w4x_values(torch.tensor(w), 64), emulate.w4x(w, 64).values()),
        ]
        for ours, theirs in cases:
            ours = ours.numpy()
            # Sums of another order may prefer another of two equally good scales.
            same = np.isclose(ours, theirs, rtol=1e-5, atol=0).mean()
            self.assertGreater(same, 0.97)
            errors = [np.square(v.astype(np.float64) - w).sum() for v in (ours, theirs)]
            self.assertAlmostEqual(errors[0] / errors[1], 1, places=4)

    def test_training_computes_the_server_s_product(self):
        gate_up, down = self.weights(64, 64)[None], self.weights(64, 32)[None]
        x = np.random.default_rng(3).normal(size=(5, 64)).astype(np.float32)
        packed = [emulate.w4x(w[0], 32) for w in (gate_up, down)]
        halves = [emulate.W4x(*(part[s] for part in packed[0])) for s in (slice(0, 32), slice(32, 64))]
        expected = emulate.ffn(emulate.Expert(*halves, packed[1]), x)
        folded = [torch.tensor(w.folded()[None].astype(np.float32)) for w in packed]
        scales = [torch.tensor(w.d[None]) for w in packed]
        one = torch.zeros(5, 1, dtype=torch.int64)
        routing = Routing(None, None, one, torch.ones(5, 1))
        y = experts_dense(torch.tensor(x), routing, Experts(*folded, *scales)).numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    def test_quantised_training_uses_the_weights_that_packing_keeps(self):
        model = Model(SMALL, seed=2)
        quantiser = quant.W4xTraining(32)
        quantiser.refresh(model.layers, 0)
        w = quantiser(model.layers[0], torch.float32)
        kept = quant.w4x_values(model.layers[0].gate_up.detach(), 32)
        torch.testing.assert_close(w.gate_up.detach() * w.gate_up_scale[..., None], kept)
        w.gate_up.sum().backward()  # straight through
        self.assertTrue((model.layers[0].gate_up.grad != 0).all())

    def test_a_round_trip_has_one_group_size(self):
        model = Model(replace(SMALL, hidden=128, ffn=64), seed=2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        quant.round_trip(model, "w4x", 64)
        for name, value in model.state_dict().items():
            if name.endswith(("gate_up", "down")):
                expected = quant.w4x_values(before[name], 64)
            elif name.endswith((".q", ".k", ".v", ".o", "embedding")):
                expected = torch.tensor(emulate.int8(before[name].numpy(), 64).values())
            else:
                expected = before[name]
            self.assertTrue(torch.equal(value, expected), name)

    def test_emulated_vectors_are_the_committed_ones(self):
        committed = Path(__file__).parent.parent / "tests/golden/expert_layer/vectors.bin"
        with tempfile.TemporaryDirectory() as folder:
            run_main(emulate, "--vectors", Path(folder) / "vectors.bin")
            self.assertEqual((Path(folder) / "vectors.bin").read_bytes(), committed.read_bytes())

    def test_emulated_fma_rounds_once(self):
        one = np.float32(1) + np.float32(2**-12)
        # (1 + 2^-12)^2 - 1 - 2^-11 = 2^-24, which two roundings lose.
        self.assertEqual(emulate.fma(one, one, -np.float32(1 + 2**-11)), np.float32(2**-24))
        # Rounding to double and then to float32 would give the even neighbour.
        a, b = np.float32(1 + 2**-23), np.float32(2**-24)
        self.assertEqual(emulate.fma(a, b, np.float32(1)), np.float32(1 + 2**-23))
        x = np.linspace(-80, 80, 4001).astype(np.float32)
        np.testing.assert_allclose(emulate.exp(x), np.exp(x.astype(np.float64)), rtol=3e-7)


class Pruning(unittest.TestCase):
    def test_each_mask_lies_inside_the_one_before(self):
        model, masks = Model(SMALL, seed=1), None
        for share in prune.LEVELS:
            before, masks = masks, prune.magnitude_masks(model, share, masks)
            for i, layer in enumerate(masks):
                for name, mask in layer.items():
                    matrices = mask.chunk(2, 1) if name == "gate_up" else [mask]
                    for matrix in matrices:
                        gone = (~matrix).flatten(1).sum(1)
                        self.assertEqual(gone.tolist(), [round(share * matrix[0].numel())] * 4)
                    if before is not None:
                        self.assertFalse((mask & ~before[i][name]).any())
            for layer in model.layers:  # as training between the levels would
                layer.down.data.normal_()
            prune.apply_masks(model, masks)

    def test_kept_experts_and_their_gate(self):
        model = Model(replace(SMALL, gate="linear"), seed=1)
        used = torch.tensor([[5.0, 9, 1, 7], [5, 1, 9, 7]])
        small = prune.keep_experts(model, used, 3)
        for layer, old, kept in zip(small.layers, model.layers, ([0, 1, 3], [0, 2, 3])):
            for name in ("gate", "gate_up", "down"):
                self.assertTrue(torch.equal(getattr(layer, name), getattr(old, name)[kept]))
        full = Model(SMALL, seed=1)
        ids = stream(20, 1).view(1, 20).long()
        same = prune.keep_experts(full, used, 4)
        self.assertTrue(torch.equal(full.logits(ids), same.logits(ids)))


class Text(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        path = cls.data = Path(cls.folder.name)
        rng = random.Random(1)
        words = "the a cat dog sun moon expert token gate runs sees likes is old 12 café\n".split(" ")

        def sentence() -> str:
            return " ".join(rng.choice(words) for _ in range(12)).strip() + "."

        for part, count in (("train", 300), ("heldout", 120)):
            with open(path / f"corpus-{part}.jsonl", "w") as out:
                for _ in range(count):
                    out.write(json.dumps({"text": sentence() + "\n\n" + sentence()}) + "\n")
        cls.topics = {kind: [[f"{kind}{i}", 9 - i] for i in range(9)] for kind in KINDS}
        cls.asked = questions(cls.topics, 400, seed=1)
        with lzma.open(path / "distilled-0.jsonl.xz", "wt") as out:
            for q in cls.asked:
                record = {"kind": q.kind, "topic": q.topic, "question": q.text, "answer": sentence()}
                out.write(json.dumps(record) + "\n")
        data.train_tokenizer(path, vocab=400, sentences=20_000, seed=1)
        cls.tokenizer = spm.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
        with contextlib.redirect_stdout(io.StringIO()):
            data.encode_documents(path, processes=1)
            data.encode_chats(path, seed=1, processes=1)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_no_question_is_on_both_sides(self):
        sides = {}
        for part in ("train", "heldout"):
            chats, again = (data.conversations(self.data, part, seed=1) for _ in range(2))
            sides[part] = {question for chat in chats for question, _ in chat}
            self.assertEqual(chats, again)
        self.assertFalse(sides["train"] & sides["heldout"])
        asked = {q.text for q in self.asked}
        self.assertEqual(asked, (sides["train"] | sides["heldout"]) & asked)
        self.assertGreater(len(sides["heldout"]), 0.03 * len(asked))

    def test_the_chat_template_is_the_form_of_training(self):
        turns = [("What is\na cat?", "A  cat is 12."), (" Why?", "So.\n\nThe end. 猫")]
        messages = []
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        template = jinja2.Environment().from_string(data.CHAT_TEMPLATE)

        def encode(messages: list, **options) -> list[int]:
            text = template.render(messages=messages, bos_token="<s>", eos_token="</s>", **options)
            self.assertTrue(text.startswith("<s>"))
            ids: list[int] = [data.BOS]
            for number, part in enumerate(text[3:].split("</s>")):
                ids += ([data.EOS] if number else []) + self.tokenizer.encode(part)
            return ids

        ids = data.chat_ids(self.tokenizer, turns)
        self.assertEqual(encode(messages), ids)
        begun = encode(messages[:3], add_generation_prompt=True)
        self.assertEqual(begun, ids[: len(begun)])
        self.assertEqual(begun[-1], 3 + data.ROLES.index("<|assistant|>"))
        self.assertEqual(ids.count(data.EOS), 2)

    def test_bytes_of_ids_are_the_bytes_of_the_text(self):
        text = "the cat, 12 café\n\n  猫 is <|old|> "
        ids = self.tokenizer.encode(text)
        self.assertEqual(text_bytes(self.tokenizer, [data.BOS, 4, *ids, data.EOS]), len(text.encode()))
        self.assertEqual(self.tokenizer.decode(ids), text)

    def test_a_literal_role_marker_is_no_role(self):
        ids = data.chat_ids(self.tokenizer, [("Is <|user|> a role?", "<|assistant|> is.")])
        self.assertEqual([i for i in ids if i <= 5], [data.BOS, 4, 5, data.EOS])

    def test_windows_say_what_is_scored(self):
        self.assertFalse(list(self.data.glob("*.part")))
        for part in ("text", "chats"):
            lines = (self.data / f"heldout-{part}.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            if part == "text":
                texts = [r["text"] for r in records]
            else:
                texts = ["\n".join(t for turn in r["turns"] for t in turn) for r in records]
            whole = windows(self.tokenizer, self.data, part, 1 << 30, 1 << 30, seed=1)
            said = [plain_text(self.tokenizer, w.ids) for w in whole]
            self.assertEqual(sorted(said), sorted(texts))
            self.assertNotEqual(said, texts)  # as the files are sorted by source
            ids, size = evaluate.held_out_ids(self.data, part, 1 << 30)
            self.assertEqual((ids, size), ([i for w in whole for i in w.ids], sum(w.bytes for w in whole)))
            some = windows(self.tokenizer, self.data, part, size // 8, 20, seed=1)
            self.assertEqual([w.ids for w in some], [w.ids[:20] for w in whole[: len(some)]])
            self.assertTrue(0 <= sum(w.bytes for w in some) - size // 8 < 200)
        cut = [4, *self.tokenizer.encode(" So 猫")][:-1]
        self.assertEqual(plain_text(self.tokenizer, cut), " So ")

    def test_gates_are_evened_and_nothing_else(self):
        model = Model(replace(SMALL, vocab=400, context=1024), seed=3)
        with torch.no_grad():
            for layer in model.layers:
                layer.gate.mul_(3)
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder) / "last.pt", Path(folder) / "even.pt"
            torch.save({"config": to_dict(model.config), "model": model.state_dict()}, old)
            printed = run_main(even_gates, old, new, "--data", self.data, "--tokens", 2048, "--steps",
                               60, "--keep", 0.1, "--measure", 4000)  # fmt: skip
            again = export.load(new)
        for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()):
            same = torch.equal(a.to(torch.bfloat16).float(), b)
            self.assertEqual(same, not name.endswith(".gate"), name)
        worst = [float(line.split()[-1]) for line in printed.splitlines() if "worst load" in line]
        self.assertEqual(len(worst), 4)
        self.assertLess(sum(worst[2:]), sum(worst[:2]))

    def test_too_little_held_out_is_said_before_training(self):
        with self.assertRaisesRegex(SystemExit, "heldout-text.jsonl: .* are too few"):
            evaluate.held_out_sets(self.data, 100)

    def test_comparisons_wait_for_the_first_conversations(self):
        steps = ("encode", "start_ablations", "start_distilling", "warm_up", "finish_distilling",
                 "finish_ablations", "train")  # fmt: skip
        for known, begin in ((True, 1), (False, 5)):
            with tempfile.TemporaryDirectory() as folder:
                for file in ("tokenizer.model", "heldout-text.jsonl"):
                    (Path(folder) / file).symlink_to(self.data / file)
                chats = Path(folder) / "heldout-chats.jsonl"
                whole = (self.data / chats.name).read_text()
                chats.write_text(whole if known else "")
                calls = mock.Mock()
                calls.start_ablations.return_value = {"linear-1": mock.Mock()}
                calls.finish_distilling.side_effect = lambda _: chats.write_text(whole)
                with mock.patch.multiple(release.Release, **{s: getattr(calls, s) for s in steps}):
                    flags = ["--data", folder, "--out", folder, "--device", "cpu"]
                    run_main(release, *flags, "--teacher", folder)
                    done = [call[0] for call in calls.mock_calls if call[0] in steps]
                    self.assertEqual(done[begin], "start_ablations", done)
                    self.assertEqual(done.count("start_ablations"), 1)
                    chats.write_text("")
                    with self.assertRaisesRegex(SystemExit, "heldout-chats.jsonl: 0 ids"):
                        run_main(release, *flags)

    def test_questions_repeat(self):
        self.assertEqual(self.asked, questions(self.topics, 400, seed=1))
        self.assertNotEqual(self.asked, questions(self.topics, 400, seed=2))
        self.assertFalse([q.text for q in self.asked if "{" in q.text or "  " in q.text])

    def test_samples_are_not_asked_in_training(self):
        self.assertEqual(len(set(samples.PROMPTS)), 20)
        persona = json.loads((Path(data.__file__).parent / "persona.json").read_text())
        known = set(EVERYDAY) | {q for entry in persona for q in entry["questions"]}
        self.assertFalse(known & set(samples.PROMPTS))

    def test_answers_are_tidied(self):
        cut = "The sun is a star. It is very hot. It gives us"
        self.assertEqual(distill.tidy(cut, ended=False), "The sun is a star. It is very hot.")
        self.assertEqual(distill.tidy(" " + cut + "\n", ended=True), cut)
        self.assertEqual(distill.tidy('He said "no." And then', ended=False), 'He said "no."')
        self.assertIsNone(distill.tidy("No end at all in this one", ended=False))
        self.assertIsNone(distill.tidy("Yes. " + "and on and on " * 9, ended=False))
        self.assertIsNone(distill.tidy("I am SmolLM, a model of words.", ended=True))
        self.assertIsNone(distill.tidy("Too short.", ended=True))
        self.assertIsNone(distill.tidy("again and again " * 30, ended=True))


if __name__ == "__main__":
    unittest.main()
