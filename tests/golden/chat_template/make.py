#!/usr/bin/env python3
"""Renders chat templates and snippets with jinja2, set up as transformers does; writes cases.json.

Usage: make.py (in this folder). A case whose rendering fails has "error" in place of "text".
"""
import json
import random

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = ["chatml", "mixtral", "llama2", "llama3", "llama31", "zephyr", "thinking"]

# Each is rendered with VARIABLES; they cover the language rather than a model.
SNIPPETS = r"""
{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e3 }} {{ 1_000 }}
{{ 0.1 + 0.2 }} {{ 1.0 }} {{ 1e20 * 10 }} {{ 1 / 3 }} {{ 5 // 2.0 }} {{ -5.5 % 2 }} {{ 1e-7 }} {{ 123456789.0 * 10 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1, 'x'] ~ {'k': "it's"} }}
{{ "a" "b" 'c' }} {{ 'tab\tnl\\n \x41 \u00e9 \q' }}
{{ [1, 2, 3][1:] }} {{ [1, 2, 3][::-1] }} {{ 'héllo'[1] }} {{ 'héllo'[-2:] }} {{ 'abcdef'[4:1:-2] }} {{ [1,2][5:] }}
{{ nums[0] }} {{ nums[-1] }} {{ nums[99] }} {{ nums[99] is defined }} {{ d['k'] }} {{ d.k }} {{ d.zzz is undefined }}
{{ true and 'x' }} {{ none or 'y' }} {{ not 0 }} {{ not not '' }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ 2 >= 3 }}
{{ 1 in nums }} {{ 'k' in d }} {{ 'ell' in 'hello' }} {{ 9 not in nums }} {{ not 1 in nums }} {{ [1] in [[1], 2] }}
{{ 'yes' if nums else 'no' }} {{ 'x' if false }} {{ 'a' if false else 'b' if true else 'c' }}
{{ '  x '|trim }}| {{ ' xx '.strip() }}| {{ 'xxabxx'.strip('x') }} {{ 'xxab'.lstrip('x') }} {{ 'abxx'.rstrip('x') }} {{ '\u00a0a\n'.strip() }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.split(none, 1) }}
{{ 'Hello World'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'hello wORLD it\'s'.title() }} {{ 'hello wORLD it\'s x-y'|title }} {{ 'hELLO'|capitalize }} {{ 'straße'|upper }}
{{ 'aXbX'.replace('X', 'yy') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'aXb'|replace('X', '') }} {{ 'hello'.find('l') }} {{ 'hello'.find('z') }} {{ 'hello'.count('l') }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'a\nb\r\nc'.splitlines() }} {{ '-'.join(['a', 'b']) }} {{ '12'.isdigit() }}
{{ nums|length }} {{ 'héé'|length }} {{ d|length }} {{ nums|first }} {{ nums|last }} {{ nums|join(', ') }} {{ nums|reverse|list }} {{ ''|first }}
{{ d|tojson }} {{ deep|tojson }} {{ 'é"\n\u0001'|tojson }} {{ none|tojson }} {{ 1.5|tojson }} {{ [true, false]|tojson }} {{ []|tojson }}
{{ deep|tojson(indent=2) }}
{{ missing|default('d') }} {{ ''|default('d') }} {{ ''|default('d', true) }} {{ missing|d }} {{ none|default('n') }}
{{ people|map(attribute='name')|join(',') }} {{ people|selectattr('age', 'ge', 30)|map(attribute='name')|list }} {{ nums|map('string')|list }} {{ people|map(attribute='zip', default=0)|list }}
{{ nums|select('odd')|list }} {{ nums|reject('odd')|list }} {{ people|rejectattr('admin')|list|length }} {{ ['a', '', 'b']|select|list }} {{ [1, 1, 2]|unique|list }}
{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.get('k') }} {{ d.get('no') }} {{ d.get('no', 3) }} {{ d|items|list }} {{ d|dictsort }}
{{ 1 is number }} {{ 1.5 is float }} {{ 'a' is string }} {{ d is mapping }} {{ nums is iterable }} {{ nums is sequence }} {{ none is none }} {{ 3 is odd }} {{ 4 is even }} {{ true is boolean }} {{ 9 is divisibleby 3 }} {{ 1 is eq 1 }} {{ 'x' is in 'xyz' }} {{ true is true }} {{ 1 is true }} {{ 'a' is not string }} {{ 3 is integer }} {{ true is integer }} {{ true is number }}
{{ '3'|int + 1 }} {{ 'x'|int }} {{ 3.9|int }} {{ '2.5'|float }} {{ -3|abs }} {{ 5|string ~ 'x' }} {{ [3]|string }}
{% for x in nums %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for c in 'aé' %}[{{ c }}]{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for x in nums if x > 1 %}{{ x }}{{ loop.first }}{{ loop.revindex }}{% else %}none{% endfor %} {% for x in [] %}{% else %}empty{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(1, 10, 3)|list }} {{ range(3, 0, -1)|list }}
{% for x in nums %}{% for y in [1, 2] %}{{ loop.index0 }}{% endfor %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in nums %}{{ loop.previtem is defined }}{{ loop.nextitem }}{% endfor %}
{% set x = 1 %}{% for i in nums %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
{% set ns = namespace(x=1, l=[]) %}{% for i in nums %}{% set ns.x = ns.x + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.x }} {{ ns.l }} {{ ns.zzz is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = (1,) %}{{ t[0] }} {% set block %}in {{ a }}{% endset %}{{ block }}
{% if false %}a{% elif 0 %}b{% elif nums %}c{% else %}d{% endif %} {% if missing %}x{% endif %}
{% raw %}{{ not run }} {% if %}{% endraw %} {# a comment #}after
{{ {'a': [1, {'b': 2}]}['a'][1].b }} {{ {'x': 1}.x }} {{ {}|length }} {{ [[1, 2], [3]][0][1] }}
{{ "it's" }} {{ ["it's", 'say "hi"', 'both \' "', 'n\n'] }} {{ [none, true, 1.0, 'é'] }}
{{ 'a' * 3 }} {{ [0] * 2 }} {{ 'x' + 'y' * 2 }} {{ [1] + [2] }} {{ -nums[0] }} {{ +3 }} {{ - 2 ** 2 }} {{ 2 * -3 }}
{{ people is defined and people|length }} {{ (1, 'a') }} {{ (1,) }} {{ 1, 2 }} {{ () }} {{ (1, 2)|tojson }} {{ missing is defined and missing.x }} {{ missing }} {{ (missing or d).k }}
{{ 'ab\ncd\n\nef'|indent }}|{{ 'ab\ncd'|indent(2, true) }}
{{ 'a' 'b' | upper }} {{ 'x' ~ 'y' | upper }} {{ ('x' ~ 'y') | upper }} {{ nums | length > 2 }} {{ 1 + nums | length }} {{ d.k | default('q') | upper }}
{{ raise_exception('no ' ~ d.k) }}
{{ missing.x }}
{{ missing + 'x' }}
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ none['x'] is defined }} {{ nums.foo is defined }}
{{ strftime_now('%Y') }}
{{ 'a' < 1 }}
{{ {'a': 1} == {'a': 1.0} }} {{ [1, 2] == [1, 2] }} {{ 'a' != 'b' }} {{ none == missing }}
{{ namespace(a=1).a }} {{ dict(a=1, b='x') }} {{ nums is defined and (nums|length) is even }}
{{ (d is defined) if d is mapping else 'no' }} {{ 'k' in d and d['k'] == 'v' }} {{ d.items() | length }} {{ people[0].name.upper() }} {{ people[1]['name'][0] }}
""".strip("\n").split("\n")

# White space around tags, one template each.
LAYOUTS = ["a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a  {%- if true -%}  b  {%- endif -%}  c", "  {{ 1 }}  \n  {{- 2 -}}  \n3",
           "{% for i in [1,2] %}\n{{ i }}\n{% endfor %}\n", "x {% if true %} \n y{% endif %}\n\n", "\n\n{# c #}\n{#- d -#}\n e",
           "  {%+ if true %}a{%+ endif %}\n", "{% if true +%}\n a{% endif +%}\n\n", "a\r\nb\r{{ 'c\nd' }}\r\n", "{%- raw -%} x {%- endraw -%} y",
           "{{ 1 }}\n", "{{ '}}' }}{{ {'a': {'b': 1}} }}", "   {# x #}\n   {% set a = 1 %}   \n{{ a }}", "{% generation %}g{% endgeneration %}",
           "{% if true %}{% endif %}\n  {% if true %}x{% endif %}", "\t {% if true %}\n\t{{ 1 }}\t{% endif %}", "", "\n", "text only \n\n", "{", "{ {{ '{' }} }}"]

VARIABLES = {"nums": [1, 2, 3], "d": {"k": "v", "B": 2}, "deep": {"z": [1, {"a": None, "é": "ü"}], "e": {}, "l": [], "t": True},
             "people": [{"name": "Ann", "age": 30, "admin": True}, {"name": "Bob", "age": 25}]}

TEXTS = ["Hi", "  padded \n", "", "Ünïcödé 😀 中文", "line one\nline two\n", "{{ not a tag }} {% if %}", "<|im_end|>", "it's \"quoted\"",
         "<think>\nhm\n</think>\n\nanswer", "no </think> start", "<tool>x</tool>"]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def case(env, source, name, variables):
    out = {"variables": variables}
    if name is None:
        out["source"] = source
    else:
        out["template"] = name
    try:
        out["text"] = env.from_string(source).render(**variables)
    except Exception as e:  # whatever went wrong, ours must be an error too
        out["error"] = type(e).__name__
    return out


def chats(rng):
    yield []
    yield [{"role": "user", "content": "Hello"}]
    for _ in range(45):
        chat = []
        if rng.random() < 0.5:
            chat.append({"role": "system", "content": rng.choice(TEXTS)})
        for turn in range(rng.randint(1, 6)):
            chat.append({"role": ["user", "assistant"][turn % 2], "content": rng.choice(TEXTS)})
        if rng.random() < 0.15:
            chat.insert(rng.randrange(len(chat)), {"role": rng.choice(["user", "tool", "hidden"]), "content": "odd"})
        yield chat
    yield [{"role": "user", "content": "w?"},
           {"role": "assistant", "tool_calls": [{"function": {"name": "get", "arguments": {"city": "Köln", "n": [1, 2.5]}}}]},
           {"role": "tool", "content": {"t": 20}}, {"role": "assistant", "content": "20"}]
    yield [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]


def main():
    rng = random.Random(5)
    env = environment()
    cases = []
    for name in TEMPLATES:
        with open(name + ".jinja", encoding="utf-8") as f:
            source = f.read()
        for i, chat in enumerate(chats(rng)):
            variables = {"messages": chat, "add_generation_prompt": i % 2 == 0, "bos_token": "<s>", "eos_token": "</s>"}
            if i % 5 == 0:
                variables["tools"] = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}]
            if i % 7 == 0:
                variables["enable_thinking"] = i % 14 == 0
            cases.append(case(env, source, name, variables))
    cases += [case(env, source, None, VARIABLES) for source in SNIPPETS + LAYOUTS]
    with open("cases.json", "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


if __name__ == "__main__":
    main()
