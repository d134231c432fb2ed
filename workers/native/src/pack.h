// Packs weights into panels; see gemm.h.
#pragma once

#include "gemm.h"

namespace headrace {

template <class E>
void pack(const void* weight, int64_t outputs, int64_t inputs, int64_t stride, int64_t first_panel,
          int64_t lane, int64_t lanes_each, uint32_t* panels) {
    using Element = typename E::Element;
    const int64_t words = (inputs + E::kPerWord - 1) / E::kPerWord;
    for (int64_t n = 0; n < outputs; ++n) {
        const Element* from = (const Element*)weight + n * stride;
        uint32_t* to = panels + (first_panel + n / lanes_each) * words * kPanel + lane +
                       n % lanes_each;
        for (int64_t word = 0; word < words; ++word) {
            Element pair[2] = {from[word * E::kPerWord], 0};
            if (E::kPerWord == 2 && word * 2 + 1 < inputs) pair[1] = from[word * 2 + 1];
            std::memcpy(to + word * kPanel, pair, 4);
        }
    }
}

}  // namespace headrace
