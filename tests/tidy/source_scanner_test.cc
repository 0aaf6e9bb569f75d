#include "tests/tidy/source_scanner.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string Lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "  Work();\n";
  return text;
}

std::vector<std::string> Names(const std::string& text) {
  std::vector<std::string> names;
  for (const FunctionExtent& function : FindFunctions(text)) names.push_back(function.name);
  return names;
}

TEST(BlankComments, KeepsCodeAndLineBreaks) {
  EXPECT_EQ(BlankComments("a; // b\nc; /* d\n e */ f;", true), "a;     \nc;     \n      f;");
}

TEST(BlankComments, CommentMarksInsideLiteralsAreNoComments) {
  EXPECT_EQ(BlankComments("f(\"// x\"); g('\"'); h();", true), "f(      ); g(   ); h();");
  EXPECT_EQ(BlankComments("f(\"// x\");  // y", false), "f(\"// x\");      ");
  EXPECT_EQ(BlankComments("f(\"a\\\"//\"); g();", true), "f(       ); g();");
}

TEST(BlankComments, RawStringsAndDigitSeparators) {
  EXPECT_EQ(BlankComments("s = R\"x({ \" )x\"; t", true), "s =            ; t");
  EXPECT_EQ(BlankComments("n = 1'000'000; c = 'a';", true), "n = 1'000'000; c =    ;");
}

TEST(FindFunctions, CountsFromDeclarationToClosingBrace) {
  const auto functions = FindFunctions(
      "namespace a {\n\nint F(int x,\n      int y) {\n  if (x) {\n"
      "  }\n  return y;\n}\n\n}  // namespace a\n");
  ASSERT_THAT(functions, SizeIs(1));
  EXPECT_EQ(functions[0].name, "F");
  EXPECT_EQ(functions[0].first_line, 3);
  EXPECT_EQ(functions[0].last_line, 8);
}

TEST(FindFunctions, ClassesEnumsAndTablesAreNoFunctions) {
  EXPECT_THAT(Names("class A : public B {\n public:\n  int x() const { return 1; }\n  int y_{2};\n"
                    "  enum class E { kA, kB };\n};\nconst int kTable[] = {1, 2};\n"
                    "constexpr Array<int, sizeof(int)> kOther = {3};\n"),
              ElementsAre("x"));
}

TEST(FindFunctions, ConstructorsWithInitializers) {
  const std::string body = "Foo::Foo(int a) : a_{a}, b_(2) {\n" + Lines(80) + "}\n";
  const auto functions = FindFunctions(body);
  ASSERT_FALSE(functions.empty());
  EXPECT_EQ(functions.back().name, "Foo::Foo");
  EXPECT_GT(functions.back().lines(), kFunctionLinesMax);
}

TEST(FindFunctions, TemplatesOperatorsAndTrailingReturn) {
  EXPECT_THAT(Names("template <typename T = int>\nauto F(T t) -> int {\n  return t;\n}\n"
                    "bool operator==(A a, A b) { return true; }\n"
                    "A& A::operator=(const A& b) { return *this; }\n"),
              SizeIs(3));
}

TEST(FindFunctions, BracesInLiteralsMacrosAndBranchesDoNotCount) {
  EXPECT_THAT(Names("#define OPEN {\n#define LONG(x) \\\n  do { x\n"
                    "void F() {\n  g(\"{{{\", '{');\n#ifdef A\n  if (a) {\n#else\n  if (b) {\n"
                    "#endif\n  }\n}\nvoid G() {}\n"),
              ElementsAre("F", "G"));
}

TEST(FindFunctions, LambdasCountToTheirFunction) {
  EXPECT_THAT(Names("void F() {\n  auto g = [](int x) { return x; };\n}\nvoid H() {}\n"),
              ElementsAre("F", "H"));
}

TEST(CheckLengths, FindsLongFunctionsAndNamesThem) {
  EXPECT_THAT(CheckLengths("core/a.cc", "void F() {\n" + Lines(68) + "}\n"), IsEmpty());
  const auto findings = CheckLengths("core/a.cc", "void F() {\n" + Lines(69) + "}\n");
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].message, HasSubstr("function F has 71 lines"));
}

TEST(CheckLengths, FindsLongFilesAndLines) {
  EXPECT_THAT(CheckLengths("core/a.cc", std::string(600, '\n')), IsEmpty());
  EXPECT_THAT(CheckLengths("core/a.cc", std::string(601, '\n')), SizeIs(1));
  EXPECT_THAT(CheckLengths("core/a.cc", std::string(100, 'x') + "\n"), IsEmpty());
  EXPECT_THAT(CheckLengths("core/a.cc", std::string(101, 'x') + "\n"), SizeIs(1));
}

TEST(CheckLengths, RawStringsCannotBeBroken) {
  EXPECT_THAT(CheckLengths("core/a.cc", "R\"(" + std::string(101, 'x') + ")\"\n"), IsEmpty());
}

TEST(CheckLengths, ColumnsAreCharacters) {
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "é";
  EXPECT_THAT(CheckLengths("core/a.cc", "// " + wide.substr(0, 2 * 97) + "\n"), IsEmpty());
  EXPECT_THAT(CheckLengths("core/a.cc", "// " + wide + "\n"), SizeIs(1));
}

TEST(CheckIncludes, Direction) {
  const auto count = [](const char* path, const std::string& include) {
    return CheckIncludes(path, "#include \"" + include + "\"\n").size();
  };
  EXPECT_EQ(count("core/a.cc", "core/b.h"), 0u);
  EXPECT_EQ(count("core/a.cc", "rpc/b.h"), 1u);
  EXPECT_EQ(count("model/a.cc", "transport/b.h"), 1u);
  EXPECT_EQ(count("kernels/a.cc", "model/b.h"), 1u);
  EXPECT_EQ(count("transport/a.cc", "router/b.h"), 1u);
  EXPECT_EQ(count("router/a.cc", "transport/b.h"), 0u);
  EXPECT_EQ(count("router/a.cc", "expert_worker/b.h"), 1u);
  EXPECT_EQ(count("expert_worker/a.cc", "router/b.h"), 1u);
  EXPECT_EQ(count("expert_worker/a.cc", "coordinator/client.h"), 0u);
  EXPECT_EQ(count("expert_worker/a.cc", "coordinator/cluster_state.h"), 1u);
  EXPECT_EQ(count("coordinator/a.cc", "model/b.h"), 1u);
  EXPECT_EQ(count("client/a.cc", "model/b.h"), 1u);
  EXPECT_EQ(count("cli/a.cc", "router/b.h"), 0u);
  EXPECT_EQ(count("core/a.cc", "../core/b.h"), 1u);
}

TEST(CheckIncludes, ForeignTypesStayOutOfPureParts) {
  const std::string grpc = "#include <grpcpp/grpcpp.h>\n";
  const std::string proto = "#include \"octet/v1/cluster.pb.h\"\n";
  for (const char* path : {"core/a.h", "model/a.cc", "kernels/kernels.h", "router/scheduler.h",
                           "coordinator/placement_planner.cc"}) {
    EXPECT_THAT(CheckIncludes(path, grpc), SizeIs(1)) << path;
    EXPECT_THAT(CheckIncludes(path, proto), SizeIs(1)) << path;
  }
  EXPECT_THAT(CheckIncludes("rpc/a.h", grpc + proto), IsEmpty());
  EXPECT_THAT(CheckIncludes("router/a.cc", "#include <cuda_runtime.h>\n"), SizeIs(1));
  EXPECT_THAT(CheckIncludes("kernels/cuda/a.cu", "#include <cuda_runtime.h>\n"), IsEmpty());
}

TEST(CheckIncludes, CommentedIncludesDoNotCount) {
  EXPECT_THAT(CheckIncludes("core/a.cc", "// #include \"rpc/b.h\"\n"), IsEmpty());
}

TEST(CheckBannedCalls, FindsEachOne) {
  for (const char* code :
       {"system(\"ls\");", "std::system(s);", "x = popen(a, b);", "strcpy(a, b);", "sprintf(a, b);",
        "int r = rand();", "std::srand(1);", "assert(x);", "using namespace std;",
        "y = std::exp(x);", "y = std::log (x);", "y = std::pow(x, 2);", "y = expf(x);",
        "// TO"
        "DO: later"}) {
    EXPECT_THAT(CheckBannedCalls("router/a.cc", code), SizeIs(1)) << code;
  }
  EXPECT_THAT(CheckBannedCalls("router/a_test.cc", "sleep(1);"), Not(IsEmpty()));
  EXPECT_THAT(CheckBannedCalls("router/a_test.cc", "std::this_thread::sleep_for(x);"),
              Not(IsEmpty()));
}

TEST(CheckBannedCalls, LeavesSimilarNamesAlone) {
  for (const char* code :
       {"snprintf(a, n, b);", "static_assert(x);", "operand(x);", "file.system(1);", "log(\"x\");",
        "f(\"rand()\");", "// assert(x)", "Exp(x);", "std::exponential(x);", "std::sqrt(x);",
        "namespace x = std::chrono;"}) {
    EXPECT_THAT(CheckBannedCalls("router/a.cc", code), IsEmpty()) << code;
  }
}

TEST(CheckBannedCalls, OraclesInTestsMayUseLibm) {
  EXPECT_THAT(CheckBannedCalls("router/a_test.cc", "y = std::exp(x);"), IsEmpty());
  EXPECT_THAT(CheckBannedCalls("tests/golden/a.cc", "y = std::exp(x);"), IsEmpty());
}

TEST(CheckHeader, WantsCommentAndGuard) {
  EXPECT_THAT(CheckHeader("core/a_b.h",
                          "// What.\n#ifndef OCTET_CORE_A_B_H_\n"
                          "#define OCTET_CORE_A_B_H_\n#endif\n"),
              IsEmpty());
  EXPECT_THAT(CheckHeader("core/a.h", "#ifndef OCTET_CORE_A_H_\n#define OCTET_CORE_A_H_\n"),
              SizeIs(1));
  EXPECT_THAT(CheckHeader("core/a.h", "// What.\n#pragma once\n"), SizeIs(1));
  EXPECT_THAT(CheckHeader("core/a.h", "// What.\n#ifndef CORE_A_H\n#define CORE_A_H\n"), SizeIs(1));
  EXPECT_THAT(CheckHeader("core/a.cc", ""), IsEmpty());
}

}  // namespace
}  // namespace octet
