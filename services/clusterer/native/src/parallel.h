// A parallel loop: `work(thread, first, last)` over pieces of [0, n), handed out as the threads become free.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace shoal {

template <class Work>
void parallel_for(int64_t n, int64_t piece, int threads, Work work) {
  const int64_t pieces = (n + piece - 1) / piece;
  threads = int(std::min<int64_t>(threads, pieces));
  std::atomic<int64_t> next{0};
  auto run = [&] {
    for (int64_t i; (i = next++) < pieces;) work(i * piece, std::min(n, (i + 1) * piece));
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(run);
  run();
  for (auto& t : pool) t.join();
}

}  // namespace shoal
