#include "client/router_choice.h"

#include <gtest/gtest.h>

namespace octet {
namespace {

TEST(RouterChoice, OneRouterIsAlwaysANewRound) {
  PreferredRouter preferred;
  RouterChoice choice(1, &preferred);
  EXPECT_EQ(choice.current(), 0u);
  EXPECT_FALSE(choice.Failed());
  EXPECT_EQ(choice.current(), 0u);
}

TEST(RouterChoice, EachIsTriedOnceBeforeAWait) {
  PreferredRouter preferred;
  preferred.Set(1);
  RouterChoice choice(3, &preferred);
  EXPECT_EQ(choice.current(), 1u);
  EXPECT_TRUE(choice.Failed());
  EXPECT_EQ(choice.current(), 2u);
  EXPECT_TRUE(choice.Failed());
  EXPECT_EQ(choice.current(), 0u);
  EXPECT_FALSE(choice.Failed());
  EXPECT_EQ(choice.current(), 1u);
  EXPECT_TRUE(choice.Failed()) << "the new round has them all again";
}

TEST(RouterChoice, WhoAnsweredIsAskedFirstByLaterCalls) {
  PreferredRouter preferred;
  RouterChoice first(2, &preferred);
  EXPECT_TRUE(first.Failed());
  first.Answered();
  EXPECT_EQ(RouterChoice(2, &preferred).current(), 1u);
  // After an answer the others count as untried.
  EXPECT_TRUE(first.Failed());
  EXPECT_EQ(first.current(), 0u);
}

}  // namespace
}  // namespace octet
