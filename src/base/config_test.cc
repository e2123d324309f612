#include "base/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/test_help.h"

namespace moray {
namespace {

using test::error_of;

constexpr const char* kRecipe = R"(name = "tiny"
[model]
hidden_size = 128
tie = true
rope_theta = 1e4
[train]
tokens = 14.8e12
betas = [0.9, 0.95, 1]
[[data.sources]]
path = "a.txt"
weight = 1
[[data.sources]]
path = "b.txt"
)";

TEST(Config, ReadsEveryType) {
  Config config = Config::parse(kRecipe, "tiny.toml");
  EXPECT_EQ(config.string("name"), "tiny");
  EXPECT_EQ(config.integer("model.hidden_size", 1), 128);
  EXPECT_TRUE(config.boolean("model.tie", false));
  EXPECT_EQ(config.number("model.rope_theta", 0), 1e4);
  EXPECT_EQ(config.integer("train.tokens", 0), 14'800'000'000'000);
  EXPECT_EQ(config.numbers("train.betas", {}), (std::vector<double>{0.9, 0.95, 1}));
  ASSERT_EQ(config.table_count("data.sources"), 2);
  EXPECT_EQ(config.string("data.sources.1.path"), "b.txt");
  EXPECT_EQ(config.number("data.sources.1.weight", 0.5), 0.5);
  EXPECT_EQ(config.number("data.sources.0.weight", 0.5), 1);
  EXPECT_EQ(config.string("data.sources.0.path"), "a.txt");
  EXPECT_EQ(config.strings("data.names", {"x"}), std::vector<std::string>{"x"});
  EXPECT_EQ(config.table_count("data.others"), 0);
  EXPECT_FALSE(config.has("model.other"));
  EXPECT_TRUE(config.has("model"));
  EXPECT_EQ(config.where("model.tie"), "tiny.toml:4: 'model.tie'");
  EXPECT_NO_THROW(config.reject_unknown_keys());
}

TEST(Config, NamesTheNearestKey) {
  Config config = Config::parse("[model]\nn_layers = 2\n\nhiden_size = 3\nzzz = 1\n", "recipe.toml");
  config.integer("model.hidden_size", 1);
  config.integer("model.n_layers", 1);
  config.integer("train.hidden", 1);
  EXPECT_EQ(error_of([&] { config.reject_unknown_keys(); }),
            "recipe.toml:4: unknown key 'model.hiden_size'; did you mean 'model.hidden_size'?");
}

TEST(Config, WhoReadsOneSectionRejectsItsKeysAndWhatWasSet) {
  const auto error = [](const std::string& text, const std::string& setting) {
    Config config = Config::parse(text, "r");
    if (!setting.empty()) config.set(setting);
    config.integer("model.hidden_size", 0);
    return error_of([&] { config.reject_unknown_keys("model"); });
  };
  const std::string recipe = "[model]\nhidden_size = 3\n[train]\ntokens = 5\n[modelling]\nx = 1\n";
  EXPECT_EQ(error(recipe, ""), "no error");
  EXPECT_EQ(error(recipe, "model.hidden_size=4"), "no error");
  EXPECT_EQ(error("[model]\nhiden_size = 3\n", ""),
            "r:2: unknown key 'model.hiden_size'; did you mean 'model.hidden_size'?");
  for (const char* key : {"model.hiden_size", "hidden_size", "train.tokens", "modle.hidden_size"})
    EXPECT_NE(error(recipe, key + std::string("=4")).find("unknown key '" + std::string(key) + "'"),
              std::string::npos)
        << key;
}

std::string unknown_key_error(const std::string& text) {
  Config config = Config::parse(text, "r");
  config.integer("model.hidden_size", 1);
  config.number("train.learning_rate", 1);
  if (config.table_count("data.sources") > 0) config.string("data.sources.0.path", "");
  return error_of([&] { config.reject_unknown_keys(); });
}

TEST(Config, FindsUnknownKeysWhereverTheyAre) {
  EXPECT_EQ(unknown_key_error("hidden_size = 3"),
            "r:1: unknown key 'hidden_size'; did you mean 'model.hidden_size'?");
  EXPECT_EQ(unknown_key_error("[optimizer]\nlearning_rate = 3"),
            "r:2: unknown key 'optimizer.learning_rate'; did you mean 'train.learning_rate'?");
  EXPECT_NE(unknown_key_error("[nonsense]"), "no error");
  EXPECT_NE(unknown_key_error("[[nonsense]]\nx = 1"), "no error");
  EXPECT_NE(unknown_key_error("[[model.hidden_sizes]]\nx = 1"), "no error");
  EXPECT_EQ(unknown_key_error("[[data.sources]]\npaht = ''"),
            "r:2: unknown key 'data.sources.0.paht'; did you mean 'data.sources.0.path'?");
  EXPECT_NE(unknown_key_error("'model.hidden_size' = 4"), "no error")
      << "a quoted key with a dot is another key";
  EXPECT_EQ(unknown_key_error("[model]\n[train]\nlearning_rate = 1"), "no error") << "an empty known section";
}

std::string integer_error(const std::string& value) {
  Config config = Config::parse("[a]\n  b = " + value, "r.toml");
  return error_of([&] { config.integer("a.b", 0); });
}

TEST(Config, RefusesWrongTypes) {
  EXPECT_EQ(integer_error("'abc'"), "r.toml:2: 'a.b' must be an integer, got the string \"abc\"");
  EXPECT_EQ(integer_error("2.5"), "r.toml:2: 'a.b' must be an integer, got 2.5");
  EXPECT_EQ(integer_error("true"), "r.toml:2: 'a.b' must be an integer, got true");
  EXPECT_EQ(integer_error("[1]"), "r.toml:2: 'a.b' must be an integer, got an array");
  EXPECT_EQ(integer_error("{c=1}"), "r.toml:2: 'a.b' must be an integer, got a section");
  EXPECT_EQ(integer_error("1979-05-27"), "r.toml:2: 'a.b' must be an integer, got a date or time");
  EXPECT_EQ(integer_error("1e30"),
            "r.toml:2: 'a.b' is too large to be exact as 1e+30; write the integer in full");
  for (const char* special : {"nan", "inf", "-inf"}) EXPECT_NE(integer_error(special), "no error") << special;
  EXPECT_EQ(integer_error("4e6"), "no error");
  EXPECT_EQ(integer_error("-9007199254740992.0"), "no error");

  Config config = Config::parse("a = [1, 'x']\nb = 9007199254740993\nc = 3\nd = [[1], 2]\n[e]", "r");
  EXPECT_EQ(error_of([&] { config.numbers("a", {}); }), "r:1: 'a[1]' must be a number, got the string \"x\"");
  EXPECT_EQ(error_of([&] { config.number("b", 0); }),
            "r:2: 'b' = 9007199254740993 is too large to be exact as a number");
  EXPECT_EQ(error_of([&] { config.string("c", ""); }), "r:3: 'c' must be a string, got 3");
  EXPECT_EQ(error_of([&] { config.boolean("c", true); }), "r:3: 'c' must be true or false, got 3");
  EXPECT_EQ(error_of([&] { config.strings("c", {}); }), "r:3: 'c' must be an array of strings, got 3");
  EXPECT_EQ(error_of([&] { config.table_count("d"); }),
            "r:4: 'd' must be an array of tables [[d]], got an array");
  EXPECT_EQ(error_of([&] { config.table_count("e"); }),
            "r:5: 'e' must be an array of tables [[e]], got a section");
  EXPECT_EQ(error_of([&] { config.string("x.y"); }), "r: the required key 'x.y' is missing");
}

TEST(Config, SaysWhereTheSyntaxBreaks) {
  const std::string message = error_of([] { Config::parse("a = 1\nb = = 2\n", "r.toml"); });
  EXPECT_TRUE(message.starts_with("r.toml:2:5: ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  for (const char* bad : {"a = 1\na = 2", "a", "[a", "a = \"\xff\"", "a = 01"}) {
    EXPECT_NE(error_of([&] { Config::parse(bad, "r"); }), "no error") << bad;
  }
  EXPECT_NE(error_of([] { Config::parse(std::string("a = \0 1", 7), "r"); }), "no error");
  EXPECT_NE(error_of([] { Config::parse("a = " + std::string(100'000, '['), "r"); }), "no error");
}

TEST(Config, SetReplacesAndAddsValues) {
  Config config = Config::parse(kRecipe, "tiny.toml");
  config.set("model.hidden_size=4e3");
  config.set(" train.name = adamw ");
  config.set("train.empty=");
  config.set("train.betas=[0.5]");
  config.set("data.sources.1.path=\"c d\"");
  config.set("new.section.key=true");
  config.set("text=a = b\nc = 1");
  EXPECT_EQ(config.integer("model.hidden_size", 0), 4000);
  EXPECT_EQ(config.string("train.name"), "adamw");
  EXPECT_EQ(config.string("train.empty"), "");
  EXPECT_EQ(config.numbers("train.betas", {}), std::vector<double>{0.5});
  EXPECT_EQ(config.string("data.sources.1.path"), "c d");
  EXPECT_TRUE(config.boolean("new.section.key", false));
  EXPECT_EQ(config.string("text"), "a = b\nc = 1");
}

std::string set_error(const std::string& assignment) {
  Config config = Config::parse(kRecipe, "tiny.toml");
  return error_of([&] { config.set(assignment); });
}

TEST(Config, SetSaysWhatIsWrong) {
  for (const char* bad : {"", "a", "=3", "a..b=3", ".a=3", "a b=3", "a.=3"}) {
    EXPECT_EQ(set_error(bad), std::string("--set '") + bad + "': expected section.key=value");
  }
  EXPECT_EQ(set_error("model=3"), "--set model: 'model' is a section; set one of its keys");
  EXPECT_EQ(set_error("name.x=3"), "--set name.x: 'name' is a value (the string \"tiny\"), not a section");
  EXPECT_EQ(set_error("data.sources.2.path=x"), "--set data.sources.2.path: there is no 'data.sources.2'");
  EXPECT_EQ(set_error("train.betas.0=1"), "--set train.betas.0: 'train.betas' is an array; set it whole");
  EXPECT_EQ(set_error("name=\xff"), "--set name: the value is not valid UTF-8");

  Config config = Config::parse(kRecipe, "tiny.toml");
  config.set("model.hidden_size=big");
  EXPECT_EQ(error_of([&] { config.integer("model.hidden_size", 0); }),
            "--set model.hidden_size: 'model.hidden_size' must be an integer, got the string \"big\"");
}

struct Values {
  std::vector<double> numbers;
  std::vector<std::string> strings;
  std::vector<int64_t> integers;
  bool operator==(const Values&) const = default;
};

Values read_all(Config& config) {
  Values values;
  values.numbers = config.numbers("train.list", {0.1, 1e300, 5e-324, 3, -0.0, 1.0 / 3});
  values.numbers.push_back(config.number("train.third", 1.0 / 3));
  values.numbers.push_back(config.number("train.whole", 2e22));
  values.numbers.push_back(config.number("train.infinite", -std::numeric_limits<double>::infinity()));
  values.strings = config.strings("names", {"a\"b\\c\n\t\x01\x7f", "ünï<｜>"});
  values.integers.push_back(config.integer("big", std::numeric_limits<int64_t>::max()));
  values.integers.push_back(config.integer("small", std::numeric_limits<int64_t>::min()));
  values.integers.push_back(config.boolean("deep.er.flag", true));
  const int64_t sources = config.table_count("data.sources");
  for (int64_t i = sources - 1; i >= 0; --i) {
    values.strings.push_back(config.string(fmt::format("data.sources.{}.path", i)));
    values.numbers.push_back(
        config.number(fmt::format("data.sources.{}.fim.rate", i), 0.1 * static_cast<double>(i)));
  }
  return values;
}

TEST(Config, ResolvedReadsBackTheSame) {
  std::string text;
  for (int i = 0; i < 11; ++i) text += fmt::format("[[data.sources]]\npath = 'p{}'\n", i);
  Config config = Config::parse(text, "r");
  const Values values = read_all(config);
  const std::string resolved = config.resolved();
  Config again = Config::parse(resolved, "resolved");
  EXPECT_EQ(read_all(again), values) << resolved;
  EXPECT_NO_THROW(again.reject_unknown_keys());
  EXPECT_TRUE(std::signbit(again.numbers("train.list", {})[4]));
  EXPECT_EQ(again.resolved(), resolved);
}

TEST(Config, ChangedKeysAreThoseOfOtherValues) {
  const auto resolved = [](const std::string& text) {
    Config config = Config::parse(text, "r");
    config.integer("model.width", 1);
    config.string("run.name", "a");
    for (int64_t i = 0; i < config.table_count("train.rate"); ++i)
      config.number(fmt::format("train.rate.{}.to", i), 0);
    return config.resolved();
  };
  const std::string one = resolved("[[train.rate]]\nto = 1\n[[train.rate]]\nto = 2");
  EXPECT_TRUE(changed_keys(one, one).empty());
  EXPECT_EQ(changed_keys(one, resolved("run.name = 'b = c'\n[[train.rate]]\nto = 1\n[[train.rate]]\nto = 3")),
            (std::vector<std::string>{"run.name", "train.rate.1.to"}));
  EXPECT_EQ(changed_keys(one, resolved("[[train.rate]]\nto = 1")),
            std::vector<std::string>{"train.rate.1.to"});
}

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("ab", "ba"), 1u);
  EXPECT_EQ(edit_distance("same", "same"), 0u);
  EXPECT_EQ(edit_distance("hiden", "hidden"), 1u);
}

}  // namespace
}  // namespace moray
