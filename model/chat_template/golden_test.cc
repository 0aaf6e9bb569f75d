// The same text as jinja2 with transformers' settings (tests/golden/chat_template/make.py).
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"

namespace octet {
namespace {

std::string ReadGolden(const std::string& name) {
  std::ifstream file(std::string(OCTET_SOURCE_DIR) + "/tests/golden/chat_template/" + name);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

absl::StatusOr<std::string> RenderCase(const nlohmann::ordered_json& entry) {
  std::string source;
  if (entry.contains("template")) {
    source = ReadGolden(entry["template"].get<std::string>() + ".jinja");
  } else {
    source = entry["source"].get<std::string>();
  }
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  ChatTemplateOptions options;
  options.add_generation_prompt = false;
  options.variables = entry["variables"];
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!options.variables.contains("messages")) return chat_template->RenderJson(messages, options);
  messages = options.variables["messages"];
  options.variables.erase("messages");
  options.add_generation_prompt = options.variables["add_generation_prompt"].get<bool>();
  options.bos_token = options.variables["bos_token"].get<std::string>();
  options.eos_token = options.variables["eos_token"].get<std::string>();
  for (const char* key : {"add_generation_prompt", "bos_token", "eos_token"}) {
    options.variables.erase(key);
  }
  return chat_template->RenderJson(messages, options);
}

TEST(ChatTemplateGolden, RendersAsJinja2) {
  const auto cases = nlohmann::ordered_json::parse(ReadGolden("cases.json"));
  ASSERT_GE(cases.size(), 400u);
  int errors = 0;
  for (const auto& entry : cases) {
    const auto text = RenderCase(entry);
    const std::string name = entry.contains("template") ? entry.dump() : entry["source"].dump();
    if (entry.contains("error")) {
      EXPECT_FALSE(text.ok()) << name;
      ++errors;
      continue;
    }
    ASSERT_TRUE(text.ok()) << text.status() << "\n" << name;
    EXPECT_EQ(*text, entry["text"].get<std::string>()) << name;
  }
  EXPECT_GT(errors, 5);
}

}  // namespace
}  // namespace octet
