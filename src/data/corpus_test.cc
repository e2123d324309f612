#include "data/corpus.h"

#include <zlib.h>
#include <zstd.h>

#include <set>

#include "base/utf8.h"
#include "data/data_testing.h"
#include "data/document_stream.h"

namespace moray {
namespace {

std::string gzip(const std::string& text) {
  z_stream state{};
  deflateInit2(&state, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(compressBound(text.size()) + 64, '\0');
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::vector<Document> read_all(Corpus& corpus) {
  std::vector<Document> documents;
  for (Document document; corpus.next(document);) documents.push_back(document);
  return documents;
}

std::vector<Document> read_all(const fs::path& path, const CorpusOptions& options = {}) {
  Corpus corpus(path, options);
  return read_all(corpus);
}

std::string joined(const std::vector<Document>& documents) {
  std::string text;
  for (const Document& document : documents) text += document.name + "=" + document.text + ";";
  return text;
}

TEST(Corpus, FoldersInByteOrder) {
  const TemporaryFolder folder;
  folder.write("b.py", "bee");
  folder.write("a/z.py", "zed");
  folder.write("B.txt", "large");
  folder.write("a.py", gzip("no: its name does not say gz"));
  folder.write("é.py.gz", gzip("acute"));
  folder.write("c.jsonl.zst", zstd("{\"text\": \"one\"}\n\n{\"text\": \"two\"}"));
  folder.write("empty.py", "");
  folder.write("binary.so", std::string("a\0b", 3));
  folder.write(".git/config", "hidden");
  folder.write(".hidden", "hidden");
  fs::create_directory_symlink(folder.path(), folder / "loop");
  Corpus corpus(folder.path(), {});
  EXPECT_EQ(joined(read_all(corpus)),
            "B.txt=large;a/z.py=zed;b.py=bee;c.jsonl.zst:1=one;c.jsonl.zst:3=two;é.py.gz=acute;");
  EXPECT_EQ(corpus.skipped().binary, 2);
  EXPECT_EQ(corpus.skipped().empty, 2);
  EXPECT_EQ(joined(read_all(folder.path(), {.suffixes = {".py"}})), "a/z.py=zed;b.py=bee;é.py.gz=acute;");
  expect_error([&] { Corpus(folder.path(), {.suffixes = {".rs"}}); }, "holds no file");
  expect_error([&] { Corpus(folder / "none", {}); }, "no such file");
}

TEST(Corpus, TextFilesAreCutAtLineEnds) {
  const TemporaryFolder folder;
  const std::string text =
      sample_text(1, 300) + std::string(500, 'x') + "数字数字数字数字数字数字数字数字数字数字";
  for (const auto& [name, content] : {std::pair{"t.txt", text},
                                      {"t.txt.gz", gzip(text)},
                                      {"t.txt.zst", zstd(text)},
                                      {"u.txt.gz", gzip(text.substr(0, 999)) + gzip(text.substr(999))}}) {
    const auto documents = read_all(folder.write(name, content), {.text_document_bytes = 200});
    std::string together;
    for (const Document& document : documents) {
      EXPECT_LE(document.text.size(), 200u);
      EXPECT_EQ(valid_utf8_prefix(document.text), document.text.size());
      together += document.text;
    }
    EXPECT_EQ(together, text);
    EXPECT_EQ(documents[0].text.back(), '\n');
    EXPECT_EQ(documents[1].name, std::string(name) + ":2");
  }
  EXPECT_TRUE(read_all(folder.write("empty.txt", "")).empty());
}

TEST(Corpus, JsonLines) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "a.jsonl", "{\"id\": 1, \"text\": \"a\\n\\u00e9\"}\n \n{\"text\": \"\"}\n{\"text\": \"z\"}");
  EXPECT_EQ(joined(read_all(path)), "a.jsonl:1=a\né;a.jsonl:4=z;");
  EXPECT_EQ(joined(read_all(folder.write("b.jsonl", "{\"body\": \"x\"}\n"), {.text_key = "body"})),
            "b.jsonl:1=x;");
  const auto error = [&](const std::string& content, const std::string& part) {
    const auto file = folder.write("bad.jsonl", "{\"text\": \"good\"}\n" + content);
    expect_error([&] { read_all(file); }, part);
    expect_error([&] { read_all(file); }, "bad.jsonl:2: ");
  };
  error("{\"text\": ", "not valid JSON");
  error("{\"text\": 3}", "no text under the key 'text'");
  error("{\"text\": \"a\"} {\"text\": \"b\"}", "not valid JSON");
  error("[1e999999]", "bad.jsonl");
  error("{\"text\": \"\xff\"}", "not valid JSON");
  error("7", "no text under the key");
}

TEST(Corpus, DamagedAndOversizedInputIsAnError) {
  const TemporaryFolder folder;
  const std::string text = sample_text(3, 2000);
  for (const auto& [name, whole] : {std::pair{"t.txt.gz", gzip(text)}, {"t.txt.zst", zstd(text)}}) {
    expect_error([&] { read_all(folder.write(name, whole.substr(0, whole.size() / 2))); }, "cut short");
    expect_error([&] { read_all(folder.write(name, whole.substr(0, whole.size() - 1))); }, "cut short");
    expect_error([&] { read_all(folder.write(name, "")); }, "cut short");
    expect_error([&] { read_all(folder.write(name, text)); }, "damaged");
    std::string flipped = whole;
    flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 0x10);
    // zstd frames written in one call carry no checksum here: a flipped byte may decode to other text.
    if (std::string(name).ends_with(".gz"))
      expect_error([&] { read_all(folder.write(name, flipped)); }, "damaged");
  }
  const TemporaryFolder bomb;
  bomb.write("zeros.txt.gz", gzip(std::string(size_t{8} << 20, 'z')));
  expect_error([&] { read_all(bomb.path(), {.max_document_bytes = 1 << 20}); },
               "a document of more than 1048576 bytes");
  const auto line = folder.write("long.jsonl", "{\"text\": \"" + std::string(3 << 20, 'z') + "\"}");
  expect_error([&] { read_all(line, {.max_document_bytes = 1 << 20}); }, "a line of more than");
  expect_error([&] { read_all(line, {.max_document_bytes = 2 << 20}); }, "a document of more than");
}

std::vector<StreamedDocument> stream(DocumentStream& documents) {
  std::vector<StreamedDocument> all;
  for (StreamedDocument document; documents.next(document);) all.push_back(document);
  return all;
}

TEST(DocumentStream, LeavesDuplicatesOut) {
  const TemporaryFolder folder;
  folder.write("one/a.txt", "same");
  folder.write("one/b.txt", "other");
  folder.write("one/c.txt", "same");
  folder.write("two.jsonl", "{\"text\": \"other\"}\n{\"text\": \"new\"}\n");
  DocumentStream documents(
      {{.name = "one", .path = folder / "one"}, {.name = "two", .path = folder / "two.jsonl"}}, {});
  const auto all = stream(documents);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[2].document.text, "new");
  EXPECT_EQ(all[2].corpus, 1u);
  EXPECT_EQ(documents.counts()[0].documents, 3);
  EXPECT_EQ(documents.counts()[0].duplicates, 1);
  EXPECT_EQ(documents.counts()[1].duplicates, 1);
}

TEST(DocumentStream, ContentDecidesWhatIsHeldOut) {
  const TemporaryFolder folder;
  std::string forward, backward;
  for (int i = 0; i < 2000; ++i) {
    const std::string line = "{\"text\": \"document " + std::to_string(i) + "\"}\n";
    forward += line;
    backward = line + backward;
  }
  const auto held_out = [&](const std::string& name, const std::string& content, HeldOutOptions options) {
    DocumentStream documents({{.name = "x", .path = folder.write(name, content)}}, options);
    std::set<std::string> texts;
    for (const StreamedDocument& document : stream(documents))
      if (document.held_out) texts.insert(document.document.text);
    return texts;
  };
  const auto first = held_out("a.jsonl", forward, {.seed = 1, .fraction = 0.2});
  EXPECT_EQ(held_out("b.jsonl", backward, {.seed = 1, .fraction = 0.2}), first);
  EXPECT_NE(held_out("a.jsonl", forward, {.seed = 2, .fraction = 0.2}), first);
  EXPECT_NEAR(static_cast<double>(first.size()), 400, 60);
  EXPECT_TRUE(held_out("a.jsonl", forward, {.seed = 1, .fraction = 0}).empty());
}

TEST(DocumentStream, BadSourcesAreErrors) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("a.txt", "text");
  const auto open = [&](std::vector<CorpusSource> sources, double fraction = 0.1) {
    return [=] { DocumentStream(sources, {.seed = 0, .fraction = fraction}); };
  };
  const CorpusSource good{.name = "a", .path = path};
  expect_error(open({}), "no corpus");
  expect_error(open({good, good}), "two corpora are named 'a'");
  expect_error(open({good}, 1), "held-out fraction 1");
  expect_error(open({good}, -0.1), "held-out fraction");
  expect_error(open({{.name = "../a", .path = path}}), "corpus name '../a'");
  expect_error(open({{.name = "a", .path = path, .weight = -1}}), "weight -1");
  expect_error(open({{.name = "a", .path = folder / "none"}}), "no such file");
}

}  // namespace
}  // namespace moray
