// Chat templates: any source gives an error or a text that is UTF-8, and the same one each time.
// Links: octet_model_chat_template
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/check.h"
#include "core/limits.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat_template = octet::ChatTemplate::Parse(source);
  if (!chat_template.ok()) {
    OCTET_CHECK(!chat_template.status().message().empty());
    return 0;
  }
  octet::ChatTemplateOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.steps_max = 2'000;  // templates that loop for long reach nothing more
  options.variables = {{"tools", {{{"name", "f"}, {"n", 1.5}}}}, {"flag", true}};
  const std::vector<octet::ChatMessage> messages = {
      {"system", " be brief \n"}, {"user", "h\xC3\xA9llo"}, {"assistant", "<think>a</think>b"}};
  const auto text = chat_template->Render(messages, options);
  const auto again = chat_template->Render(messages, options);
  OCTET_CHECK_EQ(text.ok(), again.ok());
  if (!text.ok()) return 0;
  OCTET_CHECK(*text == *again);
  OCTET_CHECK_EQ(octet::Utf8ValidLength(*text), text->size());
  OCTET_CHECK_LE(text->size(), octet::kTemplateOutputBytesMax);
  return 0;
}
