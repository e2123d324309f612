#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/test_help.h"

namespace moray {
namespace {

using test::error_of;

TEST(Json, RefusesWhatIsNotStrictlyJson) {
  const std::string deep(100'000, '[');
  for (const std::string& bad :
       {std::string(), std::string("{"), std::string("{} x"), std::string("{'a':1}"), std::string("\"\xff\""),
        std::string("{}\0{}", 5), std::string("{\"a\":1,\"a\":2}"), std::string("{\"b\":{\"a\":1,\"a\":2}}"),
        deep, std::string("[1,]"), std::string("NaN")}) {
    const std::string message = error_of([&] { parse_json(bad, "c.json"); });
    EXPECT_TRUE(message.starts_with("c.json: ")) << bad.substr(0, 40) << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  EXPECT_EQ(error_of([] { parse_json("{\"a\":{\"x\":1},\"b\":{\"x\":1}}", "c.json"); }), "no error");
}

TEST(Json, AccessorsCheckTypes) {
  const nlohmann::json object = parse_json(
      R"({"i":3,"e":1e4,"big":18446744073709551615,"f":2.5,"b":true,"s":"x","n":null,"a":[1],"o":{}})", "c");
  EXPECT_EQ(json_integer(object, "i", "c"), 3);
  EXPECT_EQ(json_integer(object, "e", "c"), 10000);
  EXPECT_EQ(json_integer(object, "n", "c", 7), 7);
  EXPECT_EQ(json_integer(object, "absent", "c", 7), 7);
  EXPECT_EQ(json_number(object, "i", "c"), 3);
  EXPECT_EQ(json_number(object, "f", "c", 1), 2.5);
  EXPECT_TRUE(json_boolean(object, "b", "c"));
  EXPECT_EQ(json_string(object, "s", "c", "y"), "x");
  EXPECT_EQ(json_array(object, "a", "c").size(), 1u);
  EXPECT_TRUE(json_object(object, "o", "c").empty());
  EXPECT_EQ(error_of([&] { json_integer(object, "f", "c"); }), "c: 'f' must be an integer, got 2.5");
  EXPECT_NE(error_of([&] { json_integer(object, "big", "c"); }), "no error");
  EXPECT_EQ(error_of([&] { json_integer(object, "s", "c", 3); }), "c: 's' must be an integer, got \"x\"");
  EXPECT_EQ(error_of([&] { json_string(object, "i", "c"); }), "c: 'i' must be a string, got 3");
  EXPECT_EQ(error_of([&] { json_number(object, "n", "c"); }), "c: 'n' is missing (a number is needed)");
  EXPECT_EQ(error_of([&] { json_object(object, "a", "c"); }), "c: 'a' must be an object, got an array");
  EXPECT_EQ(error_of([&] { json_boolean(object["a"], "x", "c"); }), "c: expected an object that holds 'x'");
}

TEST(Json, QuoteEscapes) {
  EXPECT_EQ(json_quote("a\"\\\n\x01é"), "\"a\\\"\\\\\\n\\u0001é\"");
  EXPECT_NE(error_of([] { json_quote("\xff"); }), "no error");
}

}  // namespace
}  // namespace moray
