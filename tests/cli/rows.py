#!/usr/bin/env python3
"""Rows as users write them: chats beside completions, templates, stop strings, on four ranks as on one."""
import json
import unittest

from harness import ProgramTest

BEGIN, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"


def chat(custom_id, content=QUESTION, **body):
    return json.dumps({"custom_id": custom_id, "url": "/v1/chat/completions",
                       "body": {"messages": [{"role": "user", "content": content}], "max_tokens": 40,
                                "temperature": 0, **body}}) + "\n"


def completion(custom_id, prompt, **body):
    return json.dumps({"custom_id": custom_id, "url": "/v1/completions",
                       "body": {"prompt": prompt, "max_tokens": 40, "temperature": 0, **body}}) + "\n"


class Rows(ProgramTest):
    def bodies(self, *flags, ranks=0, **where):
        self.output.unlink(missing_ok=True)
        run = self.generate(ranks, *flags, **where)
        self.assertEqual(run.returncode, 0, run.stderr)
        return [line["response"]["body"] if line["response"] else line["error"]["message"] for line in self.answers()]

    def test_a_chat_is_the_completion_of_its_rendered_text(self):
        rendered = BEGIN + USER + QUESTION + ASSISTANT
        self.write(chat("chat", return_token_ids=True) +
                   chat("parts", [{"type": "text", "text": QUESTION}]) +
                   completion("text", rendered, add_special_tokens=False, return_token_ids=True))
        for ranks in (0, 4):
            talk, parts, text = self.bodies(ranks=ranks)
            self.assertEqual(talk["prompt_token_ids"], text["choices"][0]["prompt_token_ids"])
            self.assertEqual(talk["prompt_token_ids"].count(0), 1, "one BOS")
            self.assertEqual(talk["choices"][0]["message"],
                             {"role": "assistant", "content": text["choices"][0]["text"]})
            self.assertEqual(parts["choices"][0]["message"], talk["choices"][0]["message"])
            self.assertEqual(talk["usage"], text["usage"])

    def test_a_templates_error_is_the_rows_with_the_templates_line(self):
        template = self.folder / "t.jinja"
        template.write_text("{{ bos_token }}\n{% if messages[0].content == 'bad' %}\n"
                            "{{ raise_exception('no such thing') }}{% endif %}\n{{ messages[0].content }}")
        self.write(chat("bad", "bad") + chat("good"))
        bad, good = self.bodies("--chat-template", str(template))
        self.assertIn("no such thing", bad)
        self.assertIn("line 3", bad)
        self.assertTrue(good["choices"][0]["message"]["content"])

    def test_a_model_without_a_template_answers_completions_only(self):
        model = self.copy_of_demo()
        (model / "chat_template.jinja").unlink()
        self.write(chat("chat") + completion("text", QUESTION))
        talk, text = self.bodies(model=model)
        self.assertIn("--chat-template", talk)
        self.assertIn("choices", text)

    def test_a_stop_string_ends_a_row_early(self):
        self.write(chat("free", max_tokens=60) + chat("stopped", max_tokens=60, stop=["<<"]))
        free, stopped = self.bodies(ranks=4)
        whole = free["choices"][0]["message"]["content"]
        self.assertIn("<<", whole)
        self.assertEqual(stopped["choices"][0]["message"]["content"], whole[:whole.index("<<")])
        self.assertEqual(stopped["choices"][0]["stop_reason"], "<<")
        self.assertLess(stopped["usage"]["completion_tokens"], free["usage"]["completion_tokens"])

    def test_defaults_come_from_generation_config_unless_refused(self):
        model = self.copy_of_demo()
        config = json.loads((model / "generation_config.json").read_text())
        (model / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 5}))
        self.write(chat("a", ignore_eos=True))
        (limited,) = self.bodies(model=model)
        self.assertEqual(limited["usage"]["completion_tokens"], 5)
        (free,) = self.bodies("--generation-config", "vllm", model=model)
        self.assertEqual(free["usage"]["completion_tokens"], 40)

    def test_max_tokens_of_a_chat_default_to_the_rest_of_the_context(self):
        row = json.loads(chat("a", ignore_eos=True))
        del row["body"]["max_tokens"]
        self.write(json.dumps(row) + "\n")
        (body,) = self.bodies("--max-model-len", "64")
        self.assertEqual(body["usage"]["total_tokens"], 64)


if __name__ == "__main__":
    unittest.main()
