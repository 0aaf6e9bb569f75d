"""Tests that what is exported is what is served: python3 train/serve_test.py

Need octet, at $OCTET or build/octet, and what train_test.py needs.
"""

import json
import os
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
from safetensors.torch import load_file

import data
import emulate
import export
import quant
import serve_eval
from model import Config, Model

OCTET = Path(os.environ.get("OCTET", Path(__file__).parent.parent / "build" / "octet")).absolute()
TEXT = "It was a fine day, and the old café had 12 guests. Nobody spoke.\nWhy? The gate knew.\n"


@unittest.skipUnless(OCTET.exists(), f"not run: there is no {OCTET}")
class Served(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.work = Path(cls.scratch.name)
        (cls.work / "corpus-train.jsonl").write_text(json.dumps({"text": TEXT * 50}) + "\n")
        data.train_tokenizer(cls.work, vocab=340, sentences=100_000, seed=1)
        path = cls.work / "tokenizer.model"
        cls.tokenizer = spm.SentencePieceProcessor(model_file=str(path))
        config = Config(
            vocab=340, hidden=96, layers=2, heads=3, kv_heads=1, ffn=80, experts=4, top_k=2,
            context=256,
        )  # fmt: skip
        cls.directories = {}
        for gate in ("attention", "linear"):
            model = Model(replace(config, gate=gate), seed=5)
            with torch.no_grad():  # so that tokens differ in their experts and in their logits
                model.embedding.mul_(20)
                for layer in model.layers:
                    layer.gate.mul_(3)
            cls.directories[gate] = cls.work / gate
            export.export(model, cls.work / gate, path)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def test_export_keeps_every_weight(self):
        for gate, directory in self.directories.items():
            model = export.load_export(directory)
            state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
            torch.save({"config": vars(model.config), "model": state}, self.work / "model.pt")
            again = export.load(self.work / "model.pt")
            self.assertEqual(again.config, model.config)
            for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()):
                self.assertTrue(torch.equal(a, b), f"{gate} {name}")
        with self.assertRaisesRegex(ValueError, "random"):
            export.hf_config(replace(model.config, gate="random"), "bf16")

    def test_served_in_f32_is_torch_in_f32(self):
        ids = data.chat_ids(self.tokenizer, [(TEXT, TEXT), ("Why?", "So.")])[:255]
        for directory in self.directories.values():
            package = serve_eval.pack(OCTET, directory, self.work, "f32")
            served = serve_eval.served_logprobs(OCTET, package, ids, serve_eval.FORMATS["f32"][1])
            ours = serve_eval.torch_logprobs(export.load_export(directory), ids)
            self.assertGreater(ours.std(), 0.5)
            self.assertLess((served - ours).abs().max().item(), 1e-3)

    def test_an_export_made_again_is_packed_again(self):
        directory = self.directories["linear"]
        package = serve_eval.pack(OCTET, directory, self.work, "f32")
        first = (package / "manifest.json").stat().st_mtime_ns
        serve_eval.pack(OCTET, directory, self.work, "f32")
        self.assertEqual((package / "manifest.json").stat().st_mtime_ns, first)
        os.utime(directory / "model.safetensors")
        serve_eval.pack(OCTET, directory, self.work, "f32")
        self.assertGreater((package / "manifest.json").stat().st_mtime_ns, first)

    def test_a_chat_has_the_ids_of_training(self):
        package = serve_eval.pack(OCTET, self.directories["attention"], self.work, "f32")
        question, answer = "What  is\na café? 12 ☺", " The gate.\n\nSo."
        chat = ["--chat", "--prompt", question, "--max-tokens", "1", "--json"]
        reply = json.loads(serve_eval.run([OCTET, "generate", "--model", package, *chat]))
        ids = data.chat_ids(self.tokenizer, [(question, answer), (question, answer)])
        prompt = ids[: ids.index(5) + 1]
        self.assertEqual(reply["usage"]["prompt_tokens"], len(prompt))
        # The same text rendered here, as plain text: <s> is put before it.
        text = f"<|user|>{question}<|assistant|>{answer}</s>" * 2
        (self.work / "chat.txt").write_text(text)
        asked = ["--text", self.work / "chat.txt", "--json"]
        reply = json.loads(serve_eval.run([OCTET, "eval", "--model", package, *asked]))
        self.assertEqual(reply["tokens"], ids)

    def test_a_package_keeps_what_the_emulation_and_training_say(self):
        directory = self.directories["attention"]
        model = export.load_export(directory)
        cases = [("w4x", 64, emulate.w4x, quant.w4x_values), ("int4", 32, emulate.int4, quant.int4)]
        for kind, group, exact, training in cases:
            package = serve_eval.pack(OCTET, directory, self.work, kind)
            manifest = json.loads((package / "manifest.json").read_text())
            blobs = [
                load_file(package / "blobs" / blob["digest"]) for blob in manifest["experts"]["blobs"]
            ]
            for layer, weights in enumerate(model.layers):
                for e, blob in enumerate(blobs):
                    gate, up = weights.gate_up[e].detach().chunk(2)
                    for name, w in (("gate", gate), ("up", up), ("down", weights.down[e].detach())):
                        kept = blob[f"layers.{layer}.{name}"].numpy().tobytes()
                        ours = exact(w.numpy(), group)
                        for a, b in zip(emulate.unpack(kind, group, *w.shape, kept), ours):
                            np.testing.assert_array_equal(a, b)
                        padded = torch.nn.functional.pad(w, (0, -w.shape[1] % group))
                        same = np.isclose(training(padded, group).numpy(), ours.values(), rtol=1e-5)
                        self.assertGreater(same.mean(), 0.9)
            router = load_file(package / "blobs" / manifest["router"]["blob"]["digest"])
            # --group is that of int8 too.
            kept = emulate.unpack("int8", group, 340, 96, router["embedding"].numpy().tobytes())
            embedding = torch.nn.functional.pad(model.embedding.detach(), (0, -96 % group))
            np.testing.assert_array_equal(quant.int8(embedding, group).numpy(), kept.values())


if __name__ == "__main__":
    unittest.main()
