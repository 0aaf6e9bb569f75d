// Writes the frames that are not there yet; those that are, are what earlier releases sent and
// stay as they are. Run it after a message was added: build/tests/wire/write_wire_frames
#include <google/protobuf/text_format.h>

#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/wire/wire_frames.h"

namespace {

constexpr int kDepth = 3;

bool Write(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  return file.flush().good();
}

}  // namespace

int main() {
  for (const auto* type : octet::WireTypes()) {
    for (int variant = 0; variant < octet::WireVariants(type); ++variant) {
      const std::string path = octet::WireFramePath(type, variant);
      if (std::filesystem::exists(path + ".bin")) continue;
      const auto message = octet::NewWireMessage(type);
      octet::FillWireMessage(variant, kDepth, message.get());
      std::string text;
      google::protobuf::TextFormat::PrintToString(*message, &text);
      if (!Write(path + ".bin", message->SerializeAsString()) || !Write(path + ".txt", text)) {
        std::cerr << path << ": cannot be written\n";
        return 1;
      }
      std::cout << path << "\n";
    }
  }
  return 0;
}
