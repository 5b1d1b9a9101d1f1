// The map: forces between points in the plane, and the landmarks nearest to rows. See ../../map.
//
// Every sum has a fixed order of its own, so the number of threads changes no bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "parallel.h"

namespace shoal {

constexpr int kWide = 16;
typedef float wide __attribute__((vector_size(4 * kWide)));

inline wide wide_at(const float* at) {
  wide found;
  std::memcpy(&found, at, sizeof(found));
  return found;
}

inline double sum_of(const wide& values) {
  double part[kWide];
  for (int l = 0; l < kWide; ++l) part[l] = values[l];
  for (int half = kWide / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) part[l] += part[l + half];
  return part[0];
}

// Points in the plane, filled up to whole vectors with points so far away that they exert no force; and whom each point
// is drawn to: others[starts[i]] to others[starts[i + 1] - 1].
struct Points {
  const float* x;
  const float* y;
  int64_t n;
  int64_t padded;
  const int64_t* starts;
  const int32_t* others;
  const float* weights;
};

// Attraction and repulsion (n, 2) of every point in the gradient of t-SNE, and its part of the sum that repulsion is
// divided by: sums over j of p q (y_i - y_j), of q^2 (y_i - y_j) and of q, where q = 1 / (1 + |y_i - y_j|^2).
template <int kRows>
void repel(const Points& points, int64_t first, float* repulsion, double* sums) {
  wide z[kRows] = {}, rx[kRows] = {}, ry[kRows] = {};
  for (int64_t j = 0; j < points.padded; j += kWide) {
    const wide xj = wide_at(points.x + j), yj = wide_at(points.y + j);
    for (int r = 0; r < kRows; ++r) {
      const wide dx = points.x[first + r] - xj, dy = points.y[first + r] - yj;
      const wide q = 1.0f / (1.0f + dx * dx + dy * dy);
      const wide squared = q * q;
      z[r] += q;
      rx[r] += squared * dx;
      ry[r] += squared * dy;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    sums[first + r] = sum_of(z[r]) - 1;  // without itself
    repulsion[2 * (first + r)] = float(sum_of(rx[r]));
    repulsion[2 * (first + r) + 1] = float(sum_of(ry[r]));
  }
}

inline void attract(const Points& points, int64_t i, float* attraction) {
  double ax = 0, ay = 0;
  for (int64_t e = points.starts[i]; e < points.starts[i + 1]; ++e) {
    const float dx = points.x[i] - points.x[points.others[e]], dy = points.y[i] - points.y[points.others[e]];
    const float pull = points.weights[e] / (1 + dx * dx + dy * dy);
    ax += pull * dx;
    ay += pull * dy;
  }
  attraction[2 * i] = float(ax);
  attraction[2 * i + 1] = float(ay);
}

inline void forces(const Points& points, float* attraction, float* repulsion, double* sums, int threads) {
  parallel_for(points.n, 256, threads, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) attract(points, i, attraction);
    int64_t i = first;
    for (; i + 2 <= last; i += 2) repel<2>(points, i, repulsion, sums);
    if (i < last) repel<1>(points, i, repulsion, sums);
  });
}

// Landmarks in panels of 16: (panels, d, 16) values, and (panels, 16) numbers, -1 where a panel is not full.
struct Landmarks {
  const float* values;
  const int32_t* numbers;
  int64_t d;
};

// Rows that are compared with the same landmarks: order[first] to order[last - 1], with the panels of list `list`.
struct Tile {
  int64_t first;
  int64_t last;
  int64_t list;
};

struct Searched {
  const float* x;
  const int64_t* order;
  const Tile* tiles;
  int64_t n_tiles;
  const int64_t* list_starts;
  const int32_t* panels;
  const int32_t* itself;  // a landmark that each row is not compared with, or null
  int64_t k;
};

template <int kRows>
void squares(const float* const* rows, const float* panel, int64_t d, float (*found)[kWide]) {
  wide sums[kRows] = {};
  for (int64_t j = 0; j < d; ++j) {
    const wide values = wide_at(panel + kWide * j);
    for (int r = 0; r < kRows; ++r) {
      const wide apart = values - rows[r][j];
      sums[r] += apart * apart;
    }
  }
  for (int r = 0; r < kRows; ++r) std::memcpy(found[r], &sums[r], sizeof(sums[r]));
}

// Adds a landmark to the k nearest of a row, by ascending distance, then ascending number.
inline void add_nearest(int32_t* numbers, float* squared, int64_t k, int32_t number, float distance) {
  int64_t at = k;
  while (at && (distance < squared[at - 1] || (distance == squared[at - 1] && uint32_t(number) < uint32_t(numbers[at - 1]))))
    --at;
  if (at == k) return;
  for (int64_t i = k - 1; i > at; --i) numbers[i] = numbers[i - 1], squared[i] = squared[i - 1];
  numbers[at] = number;
  squared[at] = distance;
}

// The k nearest landmarks of each row (n, k), and their squared distances; -1 and infinity where there are fewer.
inline void nearest_landmarks(const Searched& sought, const Landmarks& landmarks, int32_t* numbers, float* squared,
                              int threads) {
  constexpr int kRows = 4;
  const int64_t k = sought.k, d = landmarks.d;
  parallel_for(sought.n_tiles, 1, threads, [=](int64_t at, int64_t) {
    const Tile tile = sought.tiles[at];
    for (int64_t i = tile.first; i < tile.last; ++i) {
      std::fill_n(numbers + sought.order[i] * k, k, -1);
      std::fill_n(squared + sought.order[i] * k, k, std::numeric_limits<float>::infinity());
    }
    float found[kRows][kWide];
    for (int64_t p = sought.list_starts[tile.list]; p < sought.list_starts[tile.list + 1]; ++p) {
      const float* panel = landmarks.values + sought.panels[p] * d * kWide;
      const int32_t* ids = landmarks.numbers + int64_t(sought.panels[p]) * kWide;
      for (int64_t i = tile.first; i < tile.last; i += kRows) {
        const float* rows[kRows];
        for (int r = 0; r < kRows; ++r) rows[r] = sought.x + sought.order[std::min(i + r, tile.last - 1)] * d;
        squares<kRows>(rows, panel, d, found);
        for (int r = 0; r < kRows && i + r < tile.last; ++r) {
          const int64_t row = sought.order[i + r];
          const int32_t without = sought.itself ? sought.itself[row] : -1;
          for (int l = 0; l < kWide; ++l)
            if (ids[l] >= 0 && ids[l] != without && found[r][l] <= squared[row * k + k - 1])
              add_nearest(numbers + row * k, squared + row * k, k, ids[l], found[r][l]);
        }
      }
    }
  });
}

}  // namespace shoal
