#include "hub/conversion.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"

namespace moray::hub {

namespace {

class Pipeline {
 public:
  Pipeline(DownloadContext& originals, const fs::path& folder, const std::vector<RemoteFile>& shards,
           const Conversion& conversion, int connections)
      : originals_(originals),
        folder_(folder),
        conversion_(conversion),
        ahead_(static_cast<size_t>(connections)) {
    for (const RemoteFile& shard : shards) {
      std::error_code ignored;
      if (fs::exists(folder / shard.path, ignored)) continue;
      todo_.push_back({shard.path, conversion.needs(originals.folder, shard.path), 0});
      for (const std::string& need : todo_.back().needs) plan(shards, need, shard.path);
      todo_.back().fetched_to = order_.size();
    }
  }

  void run() {
    std::vector<std::thread> workers;
    for (size_t i = 0; i < std::min(ahead_, order_.size()); ++i) workers.emplace_back([this] { fetch(); });
    try {
      for (size_t i = 0; i < todo_.size() && wait_for(todo_[i]); ++i) {
        conversion_.convert(originals_.folder, todo_[i].shard, folder_ / todo_[i].shard);
        remove_what_nothing_needs(i + 1);
      }
    } catch (...) {
      stop(std::current_exception());
    }
    {
      const std::lock_guard lock(mutex_);
      limit_ = order_.size();
    }
    changed_.notify_all();
    for (std::thread& worker : workers) worker.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  struct Task {
    std::string shard;
    std::vector<std::string> needs;
    size_t fetched_to = 0;  // that many of `order_` must be there
  };

  void plan(const std::vector<RemoteFile>& shards, const std::string& need, const std::string& by) {
    const auto same = [&](const RemoteFile& file) { return file.path == need; };
    if (std::ranges::any_of(order_, same)) return;
    const auto found = std::ranges::find_if(shards, same);
    if (found == shards.end())
      fail("{}: '{}' needs '{}', which it lacks", originals_.repository.name, by, need);
    order_.push_back(*found);
  }

  // A worker: the next original, as far ahead of the conversion as is allowed.
  void fetch() {
    try {
      HttpClient http;
      for (;;) {
        size_t index = 0;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return originals_.stop || next_ == order_.size() || next_ < limit_; });
          if (originals_.stop || next_ == order_.size()) return;
          index = next_++;
        }
        const RemoteFile& file = order_[index];
        std::error_code ignored;
        if (!fs::exists(originals_.folder / file.path, ignored)) download(http, originals_, file);
        if (originals_.stop) return;
        const std::lock_guard lock(mutex_);
        there_.insert(file.path);
        changed_.notify_all();
      }
    } catch (...) {
      stop(std::current_exception());
    }
  }

  // False: something failed.
  bool wait_for(const Task& task) {
    std::unique_lock lock(mutex_);
    limit_ = std::min(order_.size(), task.fetched_to + ahead_);
    changed_.notify_all();
    changed_.wait(lock, [&] {
      return originals_.stop ||
             std::ranges::all_of(task.needs, [&](const std::string& need) { return there_.contains(need); });
    });
    return !originals_.stop;
  }

  void remove_what_nothing_needs(size_t next_task) {
    const std::lock_guard lock(mutex_);
    for (auto path = there_.begin(); path != there_.end();) {
      const bool needed = std::any_of(
          todo_.begin() + static_cast<std::ptrdiff_t>(next_task), todo_.end(),
          [&](const Task& task) { return std::ranges::find(task.needs, *path) != task.needs.end(); });
      if (!needed) fs::remove(originals_.folder / *path);
      path = needed ? std::next(path) : there_.erase(path);
    }
  }

  void stop(const std::exception_ptr& why) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = why;
    originals_.stop = true;
    changed_.notify_all();
  }

  DownloadContext& originals_;
  const fs::path& folder_;
  const Conversion& conversion_;
  size_t ahead_;
  std::vector<Task> todo_;
  std::vector<RemoteFile> order_;  // of downloads

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  size_t next_ = 0, limit_ = 0;  // of order_
  std::set<std::string> there_;
  std::exception_ptr failure_;
};

}  // namespace

bool is_shard(const std::string& path) {
  return path.ends_with(".safetensors") && path.find('/') == std::string::npos;
}

bool is_original(const std::string& path) {
  return is_shard(path) || path == "config.json" || path == "model.safetensors.index.json";
}

void fetch_and_convert(DownloadContext& originals, const fs::path& folder,
                       const std::vector<RemoteFile>& shards, const Conversion& conversion, int connections) {
  Pipeline(originals, folder, shards, conversion, connections).run();
}

}  // namespace moray::hub
