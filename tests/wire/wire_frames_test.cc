// Frames that were sent by the release that wrote them decode to the same values today: no field
// has another number, name or type, and every message has such a frame.
#include "tests/wire/wire_frames.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

namespace octet {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

TEST(WireFramesTest, EveryMessageOfTheWireDecodesToWhatWasSent) {
  for (const auto* type : WireTypes()) {
    for (int variant = 0; variant < WireVariants(type); ++variant) {
      const std::string path = WireFramePath(type, variant);
      ASSERT_TRUE(std::filesystem::exists(path + ".bin"))
          << path << ".bin is missing; build/tests/wire/write_wire_frames writes it";
      const auto received = NewWireMessage(type);
      ASSERT_TRUE(received->ParseFromString(ReadFile(path + ".bin"))) << path;
      const auto sent = NewWireMessage(type);
      ASSERT_TRUE(
          google::protobuf::TextFormat::ParseFromString(ReadFile(path + ".txt"), sent.get()))
          << path;
      google::protobuf::util::MessageDifferencer difference;
      std::string what;
      difference.ReportDifferencesToString(&what);
      EXPECT_TRUE(difference.Compare(*sent, *received)) << path << ": " << what;
    }
  }
}

TEST(WireFramesTest, NoFrameIsOfAMessageThatIsGone) {
  std::set<std::string> known;
  for (const auto* type : WireTypes()) {
    for (int variant = 0; variant < WireVariants(type); ++variant) {
      known.insert(WireFramePath(type, variant));
    }
  }
  const std::filesystem::path directory = std::string(OCTET_SOURCE_DIR) + "/tests/golden/wire";
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::filesystem::path path = entry.path();
    EXPECT_EQ(known.count(path.replace_extension().string()), 1u) << entry.path();
  }
}

// The check above sees a field that changed its number.
TEST(WireFramesTest, AFrameOfAnotherMessageDoesNotPass) {
  const auto* type = WireTypes().front();
  const auto message = NewWireMessage(type);
  FillWireMessage(0, 3, message.get());
  const auto moved = NewWireMessage(type);
  const std::string bytes = message->SerializeAsString();
  std::string shifted = bytes;
  shifted[0] = static_cast<char>(shifted[0] + 8);  // the first field's number
  const bool parsed = moved->ParseFromString(shifted);
  EXPECT_FALSE(parsed && google::protobuf::util::MessageDifferencer::Equals(*message, *moved));
}

}  // namespace
}  // namespace octet
