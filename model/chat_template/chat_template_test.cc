#include "model/chat_template/chat_template.h"

#include <string>

#include "core/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::string> Render(const std::string& source,
                                   const std::vector<ChatMessage>& messages = {}) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  return chat_template->Render(messages, {});
}

std::string MessageOf(const std::string& source) {
  return std::string(Render(source).status().message());
}

TEST(ChatTemplate, RendersMessages) {
  EXPECT_EQ(*Render("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}",
                    {{"user", "a"}, {"assistant", "b"}}),
            "user:a;assistant:b;");
}

TEST(ChatTemplate, ContentIsNeverReadAsATemplate) {
  EXPECT_EQ(*Render("{{ messages[0].content }}", {{"user", "{{ 1 }}{% raw %}"}}),
            "{{ 1 }}{% raw %}");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(MessageOf("\n\n{% if x %}"), AllOf(HasSubstr("line 3"), HasSubstr("endif")));
  EXPECT_THAT(MessageOf("a\n{{ x | nosuch }}"), AllOf(HasSubstr("line 2"), HasSubstr("nosuch")));
  EXPECT_THAT(MessageOf("a\n\n{{ x is nosuch }}"), AllOf(HasSubstr("line 3"), HasSubstr("nosuch")));
  EXPECT_THAT(MessageOf("{% include 'x' %}"), AllOf(HasSubstr("line 1"), HasSubstr("include")));
  EXPECT_THAT(MessageOf("a\n{% if true %}\n{{ 'x' + 1 }}{% endif %}"),
              AllOf(HasSubstr("line 3"), HasSubstr("a string and an integer")));
  EXPECT_THAT(MessageOf("\n{{ raise_exception('only two turns') }}"),
              AllOf(HasSubstr("line 2"), HasSubstr("only two turns")));
  EXPECT_THAT(MessageOf("{{ strftime_now('%d') }}"), HasSubstr("strftime_now"));
  EXPECT_THAT(MessageOf("{{ [1].append(2) }}"), HasSubstr("append"));
  EXPECT_THAT(MessageOf("{{ 'unclosed }}"), HasSubstr("not closed"));
}

TEST(ChatTemplate, RefusesWhatIsNoTemplate) {
  for (const char* bad : {"{{",          "{%",
                          "{#",          "{{ }}",
                          "{% %}",       "{{ ) }}",
                          "{{ (1 }}",    "{{ [1,,2] }}",
                          "{% for %}",   "{% for x y %}",
                          "{% endif %}", "{% else %}",
                          "{% set %}",   "{% set 1 = 2 %}",
                          "{{ 1 2 }}",   "{{ a. }}",
                          "{{ a[] }}",   "{{ f(a=1, 2) }}",
                          "{% break %}", "{{ '\\ud800' }}",
                          "{% raw %}",   "{{ 99999999999999999999 }}",
                          "{{ $ }}",     "{% if a %}{% endfor %}",
                          "\xff"}) {
    EXPECT_FALSE(ChatTemplate::Parse(bad).ok()) << bad;
  }
}

TEST(ChatTemplate, EndsEveryLoop) {
  const auto nested = Render(
      "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
      "{% endfor %}{% endfor %}{% endfor %}");
  EXPECT_EQ(nested.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(nested.status().message()), HasSubstr("steps"));
  EXPECT_FALSE(Render("{{ range(2147483647) | list | length }}").ok());
}

TEST(ChatTemplate, TheCallerCanAllowFewerSteps) {
  const auto loops = ChatTemplate::Parse("{% for i in range(100) %}{{ i }}{% endfor %}");
  ASSERT_TRUE(loops.ok());
  ChatTemplateOptions options;
  options.steps_max = 1'000;
  EXPECT_TRUE(loops->Render({}, options).ok());
  options.steps_max = 100;
  EXPECT_THAT(std::string(loops->Render({}, options).status().message()),
              HasSubstr("more than 100 steps"));
}

TEST(ChatTemplate, BoundsWhatItMakes) {
  EXPECT_EQ(Render("{{ 'x' * 1000000000 }}").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Render("{% set ns = namespace(s='x') %}{% for i in range(64) %}"
                      "{% set ns.s = ns.s + ns.s %}{% endfor %}")
                   .ok());
  EXPECT_FALSE(Render("{% for i in range(100000) %}{{ 'xxxxxxxxxx' * 100 }}{% endfor %}").ok());
  EXPECT_FALSE(Render("{{ [0] * 100000000 }}").ok());
  EXPECT_FALSE(Render("{% set ns = namespace(s='x') %}{% for i in range(64) %}"
                      "{% set ns.s = ns.s | replace('x', 'xxxxxxxxxxxxxxxx') %}{% endfor %}")
                   .ok());
}

TEST(ChatTemplate, BoundsDepth) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  EXPECT_FALSE(Render("{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}").ok());
  EXPECT_FALSE(Render("{{ " + repeat("[", 5000) + repeat("]", 5000) + " }}").ok());
  EXPECT_FALSE(Render("{{ " + repeat("-", 5000) + "1 }}").ok());
  EXPECT_FALSE(Render("{{ 1" + repeat("+1", 5000) + " }}").ok());
  EXPECT_FALSE(Render("{{ x" + repeat(".a", 5000) + " }}").ok());
  EXPECT_FALSE(Render("{{ x" + repeat("|list", 5000) + " }}").ok());
  EXPECT_FALSE(Render("{{ " + repeat("not ", 5000) + "1 }}").ok());
  EXPECT_FALSE(Render("{{ 1" + repeat(" if 1 else 1", 5000) + " }}").ok());
  EXPECT_FALSE(Render(repeat("{% if 1 %}", 5000) + repeat("{% endif %}", 5000)).ok());
  EXPECT_EQ(*Render("{{ 1" + repeat("+1", 100) + " }}"), "101");
  // Values that grow level by level, and ones that share their parts.
  EXPECT_FALSE(Render("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}"
                      "{% set ns.x = [ns.x] %}{% endfor %}")
                   .ok());
  EXPECT_FALSE(Render("{% set ns = namespace(x=1) %}{% for i in range(60) %}"
                      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}")
                   .ok());
  EXPECT_FALSE(Render("{% set ns = namespace(x=1) %}{% for i in range(60) %}"
                      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}")
                   .ok());
}

TEST(ChatTemplate, NamespacesInACircleAreFreed) {
  EXPECT_EQ(*Render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}"
                    "{% set a.self = a %}{{ a.b.a.self == a }}"),
            "True");
  EXPECT_TRUE(Render("{% set ns = namespace(last=none) %}{% for i in range(20000) %}"
                     "{% set next = namespace() %}{% set next.p = ns.last %}"
                     "{% set ns.last = next %}{% endfor %}")
                  .ok());
}

TEST(ChatTemplate, RefusesVariablesThatAreNested) {
  nlohmann::ordered_json deep = 1;
  for (int i = 0; i < 100; ++i) deep = nlohmann::ordered_json::array({deep});
  ChatTemplateOptions options;
  options.variables = {{"x", deep}};
  const auto chat_template = ChatTemplate::Parse("{{ x }}");
  ASSERT_TRUE(chat_template.ok());
  EXPECT_EQ(chat_template->Render({}, options).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, RefusesTextThatIsNotUtf8) {
  EXPECT_FALSE(Render("{{ messages[0].content }}", {{"user", "\xff"}}).ok());
}

}  // namespace
}  // namespace octet
