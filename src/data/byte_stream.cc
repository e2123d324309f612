#include "data/byte_stream.h"

#include <lzma.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace moray {

namespace {
constexpr int kMaxWindowLog = 27;                       // memory a hostile .zst can claim
constexpr uint64_t kMaxXzMemory = uint64_t{192} << 20;  // a dictionary of 128 MiB and the decoder's own

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(const fs::path& path) : path_(path), fd_(open_for_reading(path)) {}
  ~PlainStream() override { ::close(fd_); }

  size_t read(std::span<char> buffer) override {
    size_t done = 0;
    while (done < buffer.size()) {
      const ssize_t got = ::read(fd_, buffer.data() + done, buffer.size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("{}: cannot read: {}", path_.string(), std::strerror(errno));
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  fs::path path_;
  int fd_;
};

// Takes compressed bytes from a file for the two decompressors.
class CompressedStream : public ByteStream {
 protected:
  explicit CompressedStream(const fs::path& path) : path_(path), file_(path), input_(size_t{1} << 16) {}

  // More input; false at the file's end.
  bool refill() {
    input_size_ = file_.read(input_);
    input_done_ = 0;
    return input_size_ > 0;
  }

  fs::path path_;
  PlainStream file_;
  std::vector<char> input_;
  size_t input_size_ = 0, input_done_ = 0;
};

class GzipStream : public CompressedStream {
 public:
  explicit GzipStream(const fs::path& path) : CompressedStream(path) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (inflateInit2(&state_, kGzipOnly) != Z_OK) fail("{}: zlib has no memory", path.string());
  }
  ~GzipStream() override { inflateEnd(&state_); }

  size_t read(std::span<char> buffer) override {
    size_t done = 0;
    while (done < buffer.size()) {
      if (input_done_ == input_size_ && !refill()) {
        if (inside_member_) fail("{}: the gzip stream is cut short", path_.string());
        break;
      }
      if (!inside_member_) {
        inflateReset(&state_);
        inside_member_ = true;
      }
      state_.next_in = reinterpret_cast<Bytef*>(input_.data() + input_done_);
      state_.avail_in = static_cast<uInt>(input_size_ - input_done_);
      state_.next_out = reinterpret_cast<Bytef*>(buffer.data() + done);
      const uInt room = static_cast<uInt>(std::min<size_t>(buffer.size() - done, size_t{1} << 30));
      state_.avail_out = room;
      const int result = inflate(&state_, Z_NO_FLUSH);
      if (result != Z_OK && result != Z_STREAM_END)
        fail("{}: damaged gzip stream ({})", path_.string(), state_.msg ? state_.msg : "no more to read");
      input_done_ = input_size_ - state_.avail_in;
      done += room - state_.avail_out;
      if (result == Z_STREAM_END) inside_member_ = false;
    }
    return done;
  }

 private:
  z_stream state_{};
  bool inside_member_ = true;  // an empty file is no gzip file
};

class ZstdStream : public CompressedStream {
 public:
  explicit ZstdStream(const fs::path& path)
      : CompressedStream(path), state_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!state_) fail("{}: zstd has no memory", path.string());
    ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  }

  size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos < out.size) {
      // After its last input zstd may still hold output back; only when it has none either is the end
      // reached.
      const bool at_end = input_done_ == input_size_ && !refill();
      ZSTD_inBuffer in{input_.data(), input_size_, input_done_};
      const size_t before = out.pos;
      if (at_end && !inside_frame_) break;
      const size_t result = ZSTD_decompressStream(state_.get(), &out, &in);
      if (ZSTD_isError(result))
        fail("{}: damaged zstd stream ({})", path_.string(), ZSTD_getErrorName(result));
      input_done_ = in.pos;
      inside_frame_ = result != 0;
      if (at_end && out.pos == before && inside_frame_)
        fail("{}: the zstd stream is cut short", path_.string());
    }
    return out.pos;
  }

 private:
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> state_;
  bool inside_frame_ = true;
};

class XzStream : public CompressedStream {
 public:
  explicit XzStream(const fs::path& path) : CompressedStream(path) {
    if (lzma_stream_decoder(&state_, kMaxXzMemory, LZMA_CONCATENATED) != LZMA_OK)
      fail("{}: xz has no memory", path.string());
  }
  ~XzStream() override { lzma_end(&state_); }

  size_t read(std::span<char> buffer) override {
    state_.next_out = reinterpret_cast<uint8_t*>(buffer.data());
    state_.avail_out = buffer.size();
    while (state_.avail_out > 0 && !ended_) {
      if (state_.avail_in == 0 && refill()) {
        state_.next_in = reinterpret_cast<const uint8_t*>(input_.data());
        state_.avail_in = input_size_;
      }
      const lzma_ret result = lzma_code(&state_, state_.avail_in == 0 ? LZMA_FINISH : LZMA_RUN);
      if (result == LZMA_BUF_ERROR) fail("{}: the xz stream is cut short", path_.string());
      if (result == LZMA_MEMLIMIT_ERROR) fail("{}: the xz stream wants too much memory", path_.string());
      if (result != LZMA_OK && result != LZMA_STREAM_END)
        fail("{}: damaged xz stream (liblzma error {})", path_.string(), static_cast<int>(result));
      ended_ = result == LZMA_STREAM_END;
    }
    return buffer.size() - state_.avail_out;
  }

 private:
  lzma_stream state_ = LZMA_STREAM_INIT;
  bool ended_ = false;
};
}  // namespace

std::unique_ptr<ByteStream> ByteStream::open(const fs::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipStream>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path);
  if (path.extension() == ".xz") return std::make_unique<XzStream>(path);
  return std::make_unique<PlainStream>(path);
}

}  // namespace moray
