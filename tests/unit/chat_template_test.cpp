// Chat templates against Jinja2 3.1.6 as transformers sets it up: tests/data/chat_templates/snippets.json
// holds templates of one feature each with what it rendered; ../shared/chat_templates real ones.
#include "runtime/requests/text/chat_template.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

using nlohmann::ordered_json;

std::string render(const std::string& source, const ordered_json& variables = ordered_json::object()) {
  return ChatTemplate::parse(source)->render(variables);
}

std::string error_of(const std::string& source) {
  try {
    render(source);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplate, RendersEveryFeatureAsJinjaDoes) {
  const ordered_json data =
      testing_data::read_json(testing_data::data_folder() / "chat_templates" / "snippets.json");
  ASSERT_GE(data["cases"].size(), 200U);
  for (const auto& c : data["cases"]) {
    const auto source = c["template"].get<std::string>();
    try {
      const std::string rendered = render(source, data["variables"]);
      EXPECT_TRUE(c.contains("rendered"))
          << source << "\nshould fail with " << c["error"] << ", rendered " << rendered;
      EXPECT_EQ(rendered, c.value("rendered", rendered)) << source;
    } catch (const Error& error) {
      EXPECT_TRUE(c.contains("error")) << source << "\n" << error.what();
    }
  }
}

TEST(ChatTemplate, RendersTheSharedTemplates) {
  const auto folder = testing_data::shared_folder() / "chat_templates";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    const auto chat = ChatRenderer::load(folder, entry.path());
    auto cases = entry.path();
    cases.replace_extension(".cases.json");
    for (const auto& c : testing_data::read_json(cases)) {
      try {
        EXPECT_EQ(chat->render_variables(c["variables"]), c.value("rendered", "an error"))
            << entry.path() << c["case"];
      } catch (const Error& error) {
        EXPECT_FALSE(c.contains("rendered")) << entry.path() << c["case"] << error.what();
      }
    }
  }
}

TEST(ChatTemplate, NamesTheLineOfAnError) {
  EXPECT_NE(error_of("a\nb\n{{ 1 + 'x' }}").find("line 3:"), std::string::npos);
  EXPECT_NE(error_of("{% if true %}\n\n{{ raise_exception('roles must alternate') }}{% endif %}")
                .find("line 3: roles must alternate"),
            std::string::npos);
  EXPECT_NE(error_of("\n{% for x in %}{% endfor %}").find("line 2:"), std::string::npos);
  EXPECT_NE(error_of("\n\n{{ 'open").find("line 3:"), std::string::npos);
  EXPECT_NE(error_of("{# c\n#}\n{% macro m() %}\n{{ nope.x }}{% endmacro %}\n\n{{ m() }}")
                .find("line 4: 'nope' is undefined"),
            std::string::npos);
}

TEST(ChatTemplate, EndsAHostileTemplate) {
  const char* const hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% "
      "endfor %}{% endfor %}",
      "{{ 'a' * 10000000000 }}",
      "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor "
      "%}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(150) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
      "ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(150) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
      "ns.l|tojson }}",
      "{% set a = namespace(l=[1]) %}{% set b = namespace(l=[1]) %}{% for i in range(150) %}{% set a.l = "
      "[a.l, a.l] %}{% set b.l = [b.l, b.l] %}{% endfor %}{{ a.l == b.l }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s[500000] }}{% endfor %}",
      "{% set s = ('a' * 1000000) ~ 'b' %}{% for i in range(99999) %}{% if ('a' * 500000 ~ 'c') in s %}{% "
      "endif %}{% endfor %}",
      "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
      "{{ 'x'.center(100000000000) }}{{ '%1000000000d' % 5 }}",
      "{{ '{:999999999}'.format(1) }}",
      "{{ 'a\\tb'.expandtabs(99999999999) }}",
      "{{ ('a\\n' * 100000)|indent(100000) }}",
      "{{ range(99999)|list|tojson(indent=100000) }}",
      "{{ 2 ** 9999999999 }}",
      "{% set ns = namespace() %}{% for i in range(50000) %}{% set ns = namespace(p=ns) %}{% endfor %}{{ ns "
      "}}",
      "{{ [1]|batch(10000000000, 1)|list }}",
      "{{ [1]|slice(10000000000)|list }}",
      "{% for i in range(99999) %}{% for x in range(99999) %}{% endfor %}{% endfor %}",
      "{% set x = range(99999)|list %}{% for i in range(9999) %}{{ x|sort|first }}{% endfor %}",
      "{% set x = 'ab' * 400000 %}{% for c in x %}{% for d in x %}{% endfor %}{% endfor %}",
  };
  for (const char* source : hostile) {
    // All but the chain of namespaces must fail; that one must only end.
    const std::string error = error_of(source);
    EXPECT_TRUE(error != "no error" || std::string(source).find("p=ns") != std::string::npos) << source;
  }
}

TEST(ChatTemplate, RefusesSourcesThatNestWithoutEnd) {
  const auto repeated = [](const std::string& unit, int n) {
    std::string s;
    for (int i = 0; i < n; ++i) s += unit;
    return s;
  };
  for (const auto& source :
       {"{{ " + repeated("(", 100000) + " }}", "{{ " + repeated("[", 100000) + repeated("]", 100000) + " }}",
        "{{ " + repeated("not ", 100000) + "1 }}", "{{ " + repeated("-", 100000) + "1 }}",
        "{{ 1" + repeated("+1", 100000) + " }}", "{{ x" + repeated("|string", 100000) + " }}",
        "{{ x" + repeated(".y", 100000) + " }}", "{{ x" + repeated(" if y else z", 100000) + " }}",
        "{{ x" + repeated(" or y", 100000) + " }}", repeated("{% if x %}", 100000),
        "{{ f" + repeated("(f", 100000)}) {
    EXPECT_THROW(render(source), Error) << source.substr(0, 20);
  }
}

TEST(ChatTemplate, RefusesVariablesThatNestWithoutEnd) {
  std::string deep(100000, '[');
  deep += std::string(100000, ']');
  EXPECT_THROW(render("{{ x }}", ordered_json{{"x", ordered_json::parse(deep)}}), Error);
  EXPECT_THROW(render("{{ x }}", ordered_json{{"x", UINT64_MAX}}), Error);
}

class ChatRendererTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("penstock_chat_test_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const char* name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  std::string render(const ChatOptions& options = {}, const ordered_json& tools = nullptr,
                     const ordered_json& more = nullptr) const {
    const ordered_json messages{{{"role", "user"}, {"content", "hi "}}};
    return ChatRenderer::load(folder_, {})->render(messages, tools, more, options);
  }
  std::filesystem::path folder_;
};

TEST_F(ChatRendererTest, FindsTheTemplateWhereverAModelKeepsIt) {
  EXPECT_EQ(ChatRenderer::load(folder_, {}), nullptr);
  write("tokenizer_config.json",
        R"({"chat_template": "config", "bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  EXPECT_EQ(render(), "config");
  write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(render(), "json");
  write("chat_template.jinja", "jinja {{ bos_token }}{{ eos_token }}{{ pad_token is defined }}");
  EXPECT_EQ(render(), "jinja <s></s>False");
  write("other", "override");
  EXPECT_EQ(ChatRenderer::load(folder_, folder_ / "other")->render_variables(ordered_json::object()),
            "override");
}

TEST_F(ChatRendererTest, TakesTheTemplateForToolsFromANamedList) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(render(), "plain");
  EXPECT_EQ(render({}, ordered_json::array({1})), "tools");
}

TEST_F(ChatRendererTest, GivesTheTemplateWhatHuggingFaceGivesIt) {
  write("chat_template.jinja",
        "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ enable_thinking }}");
  EXPECT_EQ(render({true, false}, nullptr, {{"enable_thinking", false}}), "TrueTrueTrueFalse");
}

TEST_F(ChatRendererTest, LeavesTheLastMessageOpenOnRequest) {
  write("chat_template.jinja",
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ 'more' if add_generation_prompt }}");
  EXPECT_EQ(render({false, true}), "[hi ");
  write("chat_template.jinja", "{% for m in messages %}[{{ m.content|trim }}]{% endfor %}");
  EXPECT_EQ(render({false, true}), "[hi");
  EXPECT_THROW(render({true, true}), Error);
  write("chat_template.jinja", "nothing of it");
  EXPECT_THROW(render({false, true}), Error);
}

TEST_F(ChatRendererTest, NamesTheFileThatIsNoTemplate) {
  write("chat_template.jinja", "{% if %}");
  try {
    ChatRenderer::load(folder_, {});
    ADD_FAILURE() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("chat_template.jinja"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("line 1"), std::string::npos);
  }
}

}  // namespace
}  // namespace penstock
