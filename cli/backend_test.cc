#include "cli/backend.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/setting_table.h"

namespace octet {
namespace {

struct Asked {
  BackendKind kind;
  std::vector<std::string> addresses;  // asked whether anything listens there
};

Asked Choose(const RawSettings& flags, const RawSettings& environment, const RawSettings& yaml,
             bool listens) {
  const auto settings = Settings::Resolve(Join({ModelSettings(), ClientSettings()}), flags,
                                          environment, yaml, "f.yaml");
  EXPECT_TRUE(settings.ok()) << settings.status();
  Asked asked;
  asked.kind = ChooseBackend(*settings, [&](const std::string& address) {
    asked.addresses.push_back(address);
    return listens;
  });
  return asked;
}

const RawSettings kNothing;
const RawSettings kModel = {{"model", {"m"}}};
const RawSettings kServer = {{"server", {"host:1"}}};

TEST(ChooseBackendTest, NeitherMeansTheUsualRouterIfOneListensElseTheEmbeddedModel) {
  const Asked router = Choose(kNothing, kNothing, kNothing, true);
  EXPECT_EQ(router.kind, BackendKind::kServer);
  EXPECT_EQ(router.addresses, std::vector<std::string>{"127.0.0.1:7411"});
  EXPECT_EQ(Choose(kNothing, kNothing, kNothing, false).kind, BackendKind::kEmbedded);
}

TEST(ChooseBackendTest, WhatIsNamedIsTakenUnasked) {
  for (const bool listens : {false, true}) {
    const Asked server = Choose(kServer, kNothing, kNothing, listens);
    EXPECT_EQ(server.kind, BackendKind::kServer);
    EXPECT_TRUE(server.addresses.empty());
    const Asked model = Choose(kModel, kNothing, kNothing, listens);
    EXPECT_EQ(model.kind, BackendKind::kModel);
    EXPECT_TRUE(model.addresses.empty());
  }
}

TEST(ChooseBackendTest, TheMoreExplicitOfTheTwoWins) {
  EXPECT_EQ(Choose(kServer, kModel, kNothing, true).kind, BackendKind::kServer);
  EXPECT_EQ(Choose(kModel, kServer, kNothing, true).kind, BackendKind::kModel);
  EXPECT_EQ(Choose(kNothing, kServer, kModel, true).kind, BackendKind::kServer);
  RawSettings both = kModel;
  both.insert(kServer.begin(), kServer.end());
  EXPECT_EQ(Choose(both, kNothing, kNothing, true).kind, BackendKind::kModel);
}

}  // namespace
}  // namespace octet
