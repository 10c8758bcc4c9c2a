// A grid for CUDA sources on a processor, one block after another, with checks that a device lacks.
//
// Each thread of a block is a fiber. It runs until it waits: at a barrier, or for the other lanes of its
// warp. Which fiber goes on is decided by a seed, so that a missing barrier gives other numbers under
// another seed, and every access to shared memory is checked:
//
// * it lies inside what was declared;
// * what is read was written before, and no asynchronous copy to it is still under way;
// * no two threads touch the same place between two barriers, unless both read.
//
// A barrier that some threads wait at while others have ended, or wait at another one, is an error, and so is
// a warp's exchange that not all lanes of its mask reach. The first error stops the launch.
//
// Tensor cores are assumed to sum the exact products of one instruction and the accumulator and to cut the
// result off toward zero: the worst that is known of them, so that measured errors are not too small.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};

namespace emulation {

constexpr int WARP = 32;
constexpr std::size_t STACK_BYTES = 192 * 1024;

// What is known of two bytes of shared memory. Epochs count barriers from 1.
struct Shadow {
    std::uint32_t written = 0, read = 0;
    std::int32_t writer = -1, reader = -1;
    bool holds = false, pending = false;
};

constexpr std::int32_t SEVERAL = -2;

struct Copy {
    std::size_t at;
    unsigned char bytes[16];
};

enum class State { Ready, AtBarrier, InWarp, AtPhase, Ended };

struct Fiber {
    ucontext_t start;
    std::jmp_buf at;
    bool begun = false;
    State state = State::Ready;
    int line = 0;
    dim3 thread;
    std::uint64_t generation = 0;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
    std::size_t phase_at = 0;
    unsigned phase_parity = 0;
    // Phases of each barrier that this thread has waited for.
    std::map<std::size_t, std::uint64_t> seen;
    // Chunks that products under way read, by group, the open one last.
    std::vector<std::vector<std::size_t>> products{{}};
    std::vector<std::size_t> done;
};

struct Warp {
    std::uint32_t arrived = 0, mask = 0;
    int line = 0;
    std::uint64_t generation = 0;
    std::uint64_t given[WARP][4];
    std::uint64_t taken[WARP][4];
};

struct Region {
    std::size_t first, bytes;
};

// A barrier in shared memory: a phase ends when all have arrived and all bytes have come.
struct Phase {
    unsigned expected = 0, arrived = 0;
    long long bytes = 0;
    std::uint64_t number = 0;
};

// What a bulk copy wrote: it may be read by who has waited for the barrier's phase, and written again when
// all who read it have said that they are done.
struct Chunk {
    std::size_t bytes = 0, barrier = 0;
    std::uint64_t phase = 0;
    std::map<int, int> readers;
};

struct Block {
    std::vector<unsigned char> memory;
    std::vector<Shadow> shadow;
    std::map<std::string, Region> regions;
    std::map<std::size_t, Phase> phases;
    std::map<std::size_t, Chunk> chunks;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::uint32_t epoch = 1;
    std::size_t used = 0, room = 0;
    std::function<void()> body;
};

struct Machine {
    Block* block = nullptr;
    int current = 0;
    std::jmp_buf scheduler;
    std::string error;
    dim3 block_index, grid, block_size;
    std::vector<std::unique_ptr<char[]>> stacks;
};

// Of the thread that launches; set by every launch. Reading a plain pointer asks nothing first.
inline thread_local Machine* machine_of_thread = nullptr;

inline Fiber& fiber() {
    return machine_of_thread->block->fibers[machine_of_thread->current];
}

// Back to the scheduler. Whoever comes back here was made ready.
__attribute__((noinline)) inline void leave() {
    if (_setjmp(fiber().at) == 0) {
        _longjmp(machine_of_thread->scheduler, 1);
    }
}

[[noreturn]] inline void fail(const std::string& what) {
    if (machine_of_thread->error.empty()) {
        const dim3 b = machine_of_thread->block_index;
        machine_of_thread->error = what + " (block " + std::to_string(b.x) + "," + std::to_string(b.y) + ", thread " +
                        std::to_string(machine_of_thread->current) + ")";
    }
    _longjmp(machine_of_thread->scheduler, 2);
}

inline void barrier(int line) {
    fiber().state = State::AtBarrier;
    fiber().line = line;
    leave();
}

// ---- shared memory

inline Region declare(const char* name, std::size_t bytes, std::size_t align) {
    Block& block = *machine_of_thread->block;
    auto found = block.regions.find(name);
    if (found != block.regions.end()) {
        return found->second;
    }
    const std::size_t first = (block.used + align - 1) / align * align;
    if (bytes == 0) {
        bytes = block.room - first;
    }
    if (first + bytes > block.room) {
        block.room = first + bytes;
    }
    block.used = first + bytes;
    block.memory.resize(block.room);
    block.shadow.resize(block.room / 2 + 1);
    const Region region{first, bytes};
    block.regions[name] = region;
    return region;
}

inline void check_range(const Region& region, std::size_t offset, std::size_t bytes) {
    if (offset > region.bytes || bytes > region.bytes - offset) {
        fail("shared memory out of bounds: byte " + std::to_string(offset) + " of " +
             std::to_string(region.bytes));
    }
}

inline void note_read(const Region& region, std::size_t offset, std::size_t bytes, int who) {
    check_range(region, offset, bytes);
    Block& block = *machine_of_thread->block;
    for (std::size_t at = (region.first + offset) / 2; at < (region.first + offset + bytes + 1) / 2; at++) {
        Shadow& shadow = block.shadow[at];
        if (shadow.pending) {
            fail("shared memory is read while it is being copied: byte " + std::to_string(offset));
        }
        if (!shadow.holds) {
            fail("shared memory is read before it is written: byte " + std::to_string(offset));
        }
        if (shadow.written == block.epoch && shadow.writer != who) {
            fail("race: thread " + std::to_string(who) + " reads what thread " +
                 std::to_string(shadow.writer) + " wrote since the last barrier: byte " +
                 std::to_string(offset));
        }
        if (shadow.read != block.epoch) {
            shadow.read = block.epoch;
            shadow.reader = who;
        } else if (shadow.reader != who) {
            shadow.reader = SEVERAL;
        }
    }
}

inline void note_write(std::size_t first, std::size_t bytes, int who, bool pending) {
    Block& block = *machine_of_thread->block;
    for (std::size_t at = first / 2; at < (first + bytes + 1) / 2; at++) {
        Shadow& shadow = block.shadow[at];
        if (shadow.written == block.epoch && shadow.writer != who) {
            fail("race: threads " + std::to_string(shadow.writer) + " and " + std::to_string(who) +
                 " write one place between two barriers: byte " + std::to_string(first));
        }
        if (shadow.read == block.epoch && shadow.reader != who) {
            fail("race: thread " + std::to_string(who) +
                 " writes what another thread read since the last barrier: byte " + std::to_string(first));
        }
        shadow.written = block.epoch;
        shadow.writer = who;
        shadow.holds = !pending;
        shadow.pending = pending;
    }
}

template <typename T>
struct Place {
    Region region;
    std::size_t offset;

    operator T() const {
        note_read(region, offset, sizeof(T), machine_of_thread->current);
        T value;
        std::memcpy(&value, &machine_of_thread->block->memory[region.first + offset], sizeof(T));
        return value;
    }
    Place& operator=(T value) {
        check_range(region, offset, sizeof(T));
        note_write(region.first + offset, sizeof(T), machine_of_thread->current, false);
        std::memcpy(&machine_of_thread->block->memory[region.first + offset], &value, sizeof(T));
        return *this;
    }
    Place& operator=(const Place& other) {
        return *this = static_cast<T>(other);
    }
    Place& operator+=(T value) {
        return *this = static_cast<T>(*this) + value;
    }
};

// An array in shared memory.
template <typename T>
struct Shared {
    Region region;

    Place<T> operator[](std::size_t index) const {
        return Place<T>{region, index * sizeof(T)};
    }
};

// ---- atomic additions to shared memory, which race with nothing but plain accesses

inline unsigned atomic_add(Place<unsigned> place, unsigned value) {
    check_range(place.region, place.offset, sizeof(unsigned));
    Block& block = *machine_of_thread->block;
    const std::size_t first = place.region.first + place.offset;
    for (std::size_t at = first / 2; at < first / 2 + 2; at++) {
        Shadow& shadow = block.shadow[at];
        if (!shadow.holds) {
            fail("shared memory is added to before it is written: byte " + std::to_string(place.offset));
        }
        const bool plain_write = shadow.written == block.epoch && shadow.writer != machine_of_thread->current &&
                                 shadow.writer != SEVERAL;
        if (plain_write || (shadow.read == block.epoch && shadow.reader != machine_of_thread->current)) {
            fail("race: an atomic addition meets a plain access: byte " + std::to_string(place.offset));
        }
        shadow.written = block.epoch;
        shadow.writer = SEVERAL;
    }
    unsigned before;
    std::memcpy(&before, &block.memory[first], sizeof before);
    const unsigned after = before + value;
    std::memcpy(&block.memory[first], &after, sizeof after);
    return before;
}

// ---- asynchronous copies of 16 bytes

inline void copy16(const Region& region, std::size_t offset, const void* from) {
    check_range(region, offset, 16);
    if (offset % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
        fail("an asynchronous copy is not aligned to 16 bytes");
    }
    note_write(region.first + offset, 16, machine_of_thread->current, true);
    Copy copy{region.first + offset, {}};
    std::memcpy(copy.bytes, from, 16);
    fiber().open.push_back(copy);
}

inline void commit_copies() {
    fiber().groups.push_back(std::move(fiber().open));
    fiber().open.clear();
}

inline void land(const Copy& copy) {
    Block& block = *machine_of_thread->block;
    for (std::size_t at = copy.at / 2; at < copy.at / 2 + 8; at++) {
        // Others see it after the next barrier.
        block.shadow[at].written = block.epoch;
        block.shadow[at].writer = machine_of_thread->current;
        block.shadow[at].holds = true;
        block.shadow[at].pending = false;
    }
    std::memcpy(&block.memory[copy.at], copy.bytes, 16);
}

inline void wait_copies(std::size_t left) {
    auto& groups = fiber().groups;
    while (groups.size() > left) {
        for (const Copy& copy : groups.front()) {
            land(copy);
        }
        groups.erase(groups.begin());
    }
}

// ---- warps

inline int lane() {
    return machine_of_thread->current % WARP;
}

// All lanes of the mask give four words; the last one makes what each takes.
template <typename Make>
inline const std::uint64_t* exchange(int line, std::uint32_t mask, const std::uint64_t (&given)[4],
                                     Make make) {
    Warp& warp = machine_of_thread->block->warps[machine_of_thread->current / WARP];
    const int me = lane();
    if ((mask >> me & 1) == 0) {
        fail("a lane takes part in an exchange whose mask lacks it, in line " + std::to_string(line));
    }
    if (warp.arrived == 0) {
        warp.mask = mask;
        warp.line = line;
    } else if (warp.mask != mask || warp.line != line) {
        fail("lanes of one warp meet in different exchanges, in lines " + std::to_string(warp.line) +
             " and " + std::to_string(line));
    }
    std::memcpy(warp.given[me], given, sizeof given);
    warp.arrived |= 1u << me;
    if (warp.arrived == mask) {
        make(warp);
        warp.arrived = 0;
        warp.generation++;
    } else {
        fiber().generation = warp.generation;
        fiber().state = State::InWarp;
        fiber().line = line;
        leave();
    }
    return warp.taken[me];
}

template <typename T>
inline T shuffled(int line, std::uint32_t mask, T value, int from) {
    std::uint64_t given[4] = {0, static_cast<std::uint64_t>(from), 0, 0};
    std::memcpy(&given[0], &value, sizeof value);
    const std::uint64_t* taken = exchange(line, mask, given, [](Warp& warp) {
        for (int lane = 0; lane < WARP; lane++) {
            if ((warp.mask >> lane & 1) == 0) {
                continue;
            }
            const int from = static_cast<int>(warp.given[lane][1]);
            if (from < 0 || from >= WARP || (warp.mask >> from & 1) == 0) {
                fail("a shuffle reads a lane that is not in its mask");
            }
            warp.taken[lane][0] = warp.given[from][0];
        }
    });
    std::memcpy(&value, taken, sizeof value);
    return value;
}

inline std::uint32_t ballot(int line, std::uint32_t mask, bool vote) {
    const std::uint64_t given[4] = {vote, 0, 0, 0};
    return static_cast<std::uint32_t>(exchange(line, mask, given, [](Warp& warp) {
        std::uint32_t votes = 0;
        for (int lane = 0; lane < WARP; lane++) {
            votes |= (warp.mask >> lane & 1) != 0 && warp.given[lane][0] ? 1u << lane : 0;
        }
        for (auto& taken : warp.taken) {
            taken[0] = votes;
        }
    })[0]);
}

// ---- tensor cores

inline float from_half(unsigned bits) {
    const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
    const int exponent = static_cast<int>(bits >> 10 & 31u);
    const float fraction = static_cast<float>(bits & 1023u);
    if (exponent == 31) {
        return fraction != 0.0f ? std::nanf("") : sign * INFINITY;
    }
    return exponent == 0 ? sign * std::ldexp(fraction, -24)
                         : sign * std::ldexp(1024.0f + fraction, exponent - 25);
}

// To the nearest, ties to even, as the processor rounds a double to a whole number.
inline unsigned half_bits(float value) {
    const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
    const double size = std::fabs(static_cast<double>(value));
    if (!(size < 65520.0)) {
        return sign | (std::isnan(value) ? 0x7fffu : 0x7c00u);
    }
    int exponent = 0;
    std::frexp(size, &exponent);
    // Numbers below 2^-14 share its steps.
    const int step = (size == 0.0 || exponent < -13 ? -13 : exponent) - 11;
    const unsigned whole = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -step)));
    // A carry out of the fraction is one of the exponent.
    return sign | ((static_cast<unsigned>(step + 24) << 10) + whole);
}

inline float cut_off(double exact) {
    float near = static_cast<float>(exact);
    if (std::isfinite(exact) && std::fabs(static_cast<double>(near)) > std::fabs(exact)) {
        // The number before, toward zero.
        std::uint32_t bits;
        std::memcpy(&bits, &near, sizeof bits);
        bits--;
        std::memcpy(&near, &bits, sizeof bits);
    }
    return near;
}

inline float half_of(std::uint64_t word, int which) {
    return from_half(static_cast<std::uint16_t>(word >> (16 * which)));
}

// Matrices of 8 x 8 numbers of 16 bits; eight lanes each name the rows of one.
inline void load_matrices(int line, const Region& region, std::size_t offset, std::uint32_t (&to)[4]) {
    check_range(region, offset, 16);
    if ((region.first + offset) % 16 != 0) {
        fail("a row of a matrix is not aligned to 16 bytes");
    }
    const std::uint64_t given[4] = {region.first + offset, 0, 0, 0};
    const Region all{0, machine_of_thread->block->room};
    const std::uint64_t* taken = exchange(line, 0xffffffffu, given, [&all](Warp& warp) {
        const int first = machine_of_thread->current / WARP * WARP;
        for (int lane = 0; lane < WARP; lane++) {
            for (int matrix = 0; matrix < 4; matrix++) {
                const std::size_t row = warp.given[8 * matrix + lane / 4][0];
                const std::size_t at = row + 4 * static_cast<std::size_t>(lane % 4);
                note_read(all, at, 4, first + lane);
                std::uint32_t pair;
                std::memcpy(&pair, &machine_of_thread->block->memory[at], 4);
                warp.taken[lane][matrix] = pair;
            }
        }
    });
    for (int matrix = 0; matrix < 4; matrix++) {
        to[matrix] = static_cast<std::uint32_t>(taken[matrix]);
    }
}

// sums += a * b for a of 16 x 16 and b of 16 x 8, spread over the lanes as the manual says.
inline void multiply_16x8x16(int line, float (&sums)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
    std::uint64_t given[4];
    given[0] = a[0] | static_cast<std::uint64_t>(a[1]) << 32;
    given[1] = a[2] | static_cast<std::uint64_t>(a[3]) << 32;
    given[2] = b[0] | static_cast<std::uint64_t>(b[1]) << 32;
    given[3] = reinterpret_cast<std::uintptr_t>(&sums[0]);
    exchange(line, 0xffffffffu, given, [](Warp& warp) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < WARP; lane++) {
            const int group = lane / 4, pair = 2 * (lane % 4);
            for (int which = 0; which < 2; which++) {
                left[group][pair + which] = half_of(warp.given[lane][0], which);
                left[group + 8][pair + which] = half_of(warp.given[lane][0], 2 + which);
                left[group][pair + 8 + which] = half_of(warp.given[lane][1], which);
                left[group + 8][pair + 8 + which] = half_of(warp.given[lane][1], 2 + which);
                right[pair + which][group] = half_of(warp.given[lane][2], which);
                right[pair + 8 + which][group] = half_of(warp.given[lane][2], 2 + which);
            }
        }
        for (int lane = 0; lane < WARP; lane++) {
            float* sums = reinterpret_cast<float*>(warp.given[lane][3]);
            for (int index = 0; index < 4; index++) {
                const int row = lane / 4 + 8 * (index / 2), column = 2 * (lane % 4) + index % 2;
                double sum = sums[index];
                for (int k = 0; k < 16; k++) {
                    sum += static_cast<double>(left[row][k]) * right[k][column];
                }
                sums[index] = cut_off(sum);
            }
        }
    });
}

// ---- barriers in shared memory, bulk copies, and products of warp groups

inline Phase& phase(const Region& region, std::size_t offset) {
    check_range(region, offset, 8);
    const auto found = machine_of_thread->block->phases.find(region.first + offset);
    if (found == machine_of_thread->block->phases.end()) {
        fail("a barrier in shared memory is used before it is made: byte " + std::to_string(offset));
    }
    return found->second;
}

inline void make_phase(const Region& region, std::size_t offset, unsigned count) {
    check_range(region, offset, 8);
    note_write(region.first + offset, 8, machine_of_thread->current, false);
    machine_of_thread->block->phases[region.first + offset] = Phase{count, 0, 0, 0};
}

inline void settle(Phase& one) {
    if (one.arrived == one.expected && one.bytes == 0) {
        one.arrived = 0;
        one.number++;
    }
}

inline void arrive_at(Phase& one) {
    if (one.arrived == one.expected) {
        fail("more threads arrive at a barrier in shared memory than it counts");
    }
    one.arrived++;
    settle(one);
}

inline void expect_bytes(const Region& region, std::size_t offset, unsigned bytes) {
    Phase& one = phase(region, offset);
    one.bytes += bytes;
    arrive_at(one);
}

// Says as well that this thread's warp is done with all chunks of finished products.
inline void arrive(const Region& region, std::size_t offset) {
    const int warp = machine_of_thread->current / WARP;
    for (int other = warp * WARP; other < (warp + 1) * WARP; other++) {
        for (const std::size_t at : machine_of_thread->block->fibers[other].done) {
            auto& readers = machine_of_thread->block->chunks[at].readers;
            if (--readers[other] == 0) {
                readers.erase(other);
            }
        }
        machine_of_thread->block->fibers[other].done.clear();
    }
    arrive_at(phase(region, offset));
}

inline void wait_phase(int line, const Region& region, std::size_t offset, unsigned parity) {
    Phase& one = phase(region, offset);
    if ((one.number & 1) == parity) {
        Fiber& me = fiber();
        me.phase_at = region.first + offset;
        me.phase_parity = parity;
        me.line = line;
        me.state = State::AtPhase;
        leave();
    }
    fiber().seen[region.first + offset] = one.number;
}

inline void copy_bulk(const Region& region, std::size_t offset, const void* from, unsigned bytes,
                      std::size_t barrier) {
    check_range(region, offset, bytes);
    if (offset % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
        fail("a bulk copy is not aligned to 16 bytes");
    }
    Phase& one = phase(region, barrier);
    Chunk& chunk = machine_of_thread->block->chunks[region.first + offset];
    if (!chunk.readers.empty()) {
        fail("a bulk copy overwrites what thread " + std::to_string(chunk.readers.begin()->first) +
             " may still read: byte " + std::to_string(offset));
    }
    chunk = Chunk{bytes, region.first + barrier, one.number, {}};
    std::memcpy(&machine_of_thread->block->memory[region.first + offset], from, bytes);
    one.bytes -= bytes;
    settle(one);
}

// The chunk that a product reads from, checked, and noted until the product is done.
inline void read_chunk(std::size_t at, std::size_t bytes) {
    auto& chunks = machine_of_thread->block->chunks;
    auto found = chunks.upper_bound(at);
    if (found == chunks.begin()) {
        fail("a product reads what no copy wrote: byte " + std::to_string(at));
    }
    --found;
    if (at + bytes > found->first + found->second.bytes) {
        fail("a product reads past what a copy wrote: byte " + std::to_string(at));
    }
    const auto seen = fiber().seen.find(found->second.barrier);
    if (seen == fiber().seen.end() || seen->second <= found->second.phase) {
        fail("a product reads a copy that its thread has not waited for: byte " + std::to_string(at));
    }
    found->second.readers[machine_of_thread->current]++;
    fiber().products.back().push_back(found->first);
}

// How a matrix lies in shared memory, as descriptors of warp groups say it: without swizzle, cores of 8 lines of
// 16 bytes, the strides in bytes between cores along the depth and along the lines.
struct Described {
    std::size_t start, along_depth, along_lines;

    explicit Described(std::uint64_t descriptor)
        : start((descriptor & 0x3fff) << 4),
          along_depth((descriptor >> 16 & 0x3fff) << 4),
          along_lines((descriptor >> 32 & 0x3fff) << 4) {
        if (descriptor >> 62 != 0) {
            fail("a descriptor with a swizzle, which is not emulated");
        }
    }
    // From the first byte to behind the last one of so many lines, 16 deep.
    std::size_t bytes(std::size_t lines) const {
        return along_depth + (lines / 8 - 1) * along_lines + 128;
    }
    void read(const unsigned char* memory, int line, float (&to)[16]) const {
        for (int core = 0; core < 2; core++) {
            std::uint16_t bits[8];
            const std::size_t at = start + core * along_depth + line / 8 * along_lines + line % 8 * 16;
            std::memcpy(bits, memory + at, sizeof bits);
            for (int k = 0; k < 8; k++) {
                to[8 * core + k] = from_half(bits[k]);
            }
        }
    }
};

// sums += a * b^T for 64 lines of a and 128 of b, 16 deep: what this thread of the group has of it. Sums are
// there when the group's products have been waited for; until then they are not read, which holds as the wait
// stands between.
inline void multiply_64x128x16(float (&sums)[64], std::uint64_t a, std::uint64_t b) {
    const Described of_a(a), of_b(b);
    read_chunk(of_a.start, of_a.bytes(64));
    read_chunk(of_b.start, of_b.bytes(128));
    const unsigned char* memory = machine_of_thread->block->memory.data();
    const int thread = machine_of_thread->current % 128, lane = thread % 32;
    float left[2][16], right[16];
    of_a.read(memory, thread / 32 * 16 + lane / 4, left[0]);
    of_a.read(memory, thread / 32 * 16 + lane / 4 + 8, left[1]);
    for (int block = 0; block < 16; block++) {
        for (int which = 0; which < 2; which++) {
            of_b.read(memory, 8 * block + lane % 4 * 2 + which, right);
            for (int below = 0; below < 2; below++) {
                float& sum = sums[4 * block + 2 * below + which];
                double exact = sum;
                for (int k = 0; k < 16; k++) {
                    exact += static_cast<double>(left[below][k]) * right[k];
                }
                sum = cut_off(exact);
            }
        }
    }
}

inline void commit_products() {
    fiber().products.emplace_back();
}

inline void wait_products(std::size_t left) {
    auto& groups = fiber().products;
    // The last one is open.
    while (groups.size() > left + 1) {
        auto& done = fiber().done;
        done.insert(done.end(), groups.front().begin(), groups.front().end());
        groups.erase(groups.begin());
    }
}

// ---- launching

inline void run_fiber() {
    machine_of_thread->block->body();
    Fiber& me = fiber();
    if (!me.products.back().empty() || me.products.size() > 1) {
        fail("a thread ends with products that it did not wait for");
    }
    if (!me.open.empty()) {
        fail("a thread ends with asynchronous copies that it did not commit");
    }
    me.state = State::Ended;
    _longjmp(machine_of_thread->scheduler, 1);
}

// Lets one fiber run until it waits. False on an error.
__attribute__((noinline)) inline bool step(int which) {
    machine_of_thread->current = which;
    Fiber& next = machine_of_thread->block->fibers[which];
    const int why = _setjmp(machine_of_thread->scheduler);
    if (why == 0) {
        if (next.begun) {
            _longjmp(next.at, 1);
        }
        next.begun = true;
        setcontext(&next.start);
    }
    return why == 1;
}

inline std::uint64_t scramble(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// 0: ascending, 1: descending, others: shuffled.
inline std::vector<int> order(int count, std::uint64_t seed) {
    std::vector<int> all(count);
    for (int at = 0; at < count; at++) {
        all[at] = seed == 1 ? count - 1 - at : at;
    }
    for (int at = count - 1; seed > 1 && at > 0; at--) {
        seed = scramble(seed + 0x9e3779b97f4a7c15ull);
        std::swap(all[at], all[seed % (at + 1)]);
    }
    return all;
}

inline bool is_ready(Block& block, int which) {
    Fiber& one = block.fibers[which];
    if (one.state == State::InWarp && block.warps[which / WARP].generation != one.generation) {
        one.state = State::Ready;
    }
    if (one.state == State::AtPhase) {
        const auto found = block.phases.find(one.phase_at);
        if (found != block.phases.end() && (found->second.number & 1) != one.phase_parity) {
            one.state = State::Ready;
        }
    }
    return one.state == State::Ready;
}

inline bool run_block(Block& block, std::uint64_t seed) {
    const int count = static_cast<int>(block.fibers.size());
    const std::vector<int> turns = order(count, seed);
    while (true) {
        bool moved = false;
        for (const int which : turns) {
            if (is_ready(block, which)) {
                moved = true;
                if (!step(which)) {
                    return false;
                }
            }
        }
        if (moved) {
            continue;
        }
        int ended = 0, at_barrier = 0, waiting = -1, line = 0;
        bool one_line = true;
        for (int which = 0; which < count; which++) {
            const Fiber& one = block.fibers[which];
            ended += one.state == State::Ended;
            if (one.state == State::AtBarrier) {
                one_line = one_line && (at_barrier == 0 || line == one.line);
                line = one.line;
                at_barrier++;
            }
            if (one.state != State::Ended) {
                waiting = which;
            }
        }
        if (ended == count) {
            return true;
        }
        machine_of_thread->current = waiting;
        const std::string where = " in line " + std::to_string(block.fibers[waiting].line);
        if (at_barrier != count || !one_line) {
            machine_of_thread->error = at_barrier == 0 || !one_line
                                ? "threads wait for ever" + where
                                : "a barrier" + where + " is not reached by all threads: " +
                                      std::to_string(at_barrier) + " of " + std::to_string(count);
            return false;
        }
        block.epoch++;
        for (Fiber& one : block.fibers) {
            one.state = State::Ready;
        }
    }
}

inline std::string launch(dim3 grid, unsigned threads, std::size_t shared_bytes, std::uint64_t seed,
                          const std::function<void()>& body) {
    static thread_local Machine own;
    machine_of_thread = &own;
    machine_of_thread->error.clear();
    machine_of_thread->grid = grid;
    machine_of_thread->block_size = {threads, 1, 1};
    while (machine_of_thread->stacks.size() < threads) {
        machine_of_thread->stacks.emplace_back(new char[STACK_BYTES]);
    }
    const int blocks = static_cast<int>(grid.x * grid.y);
    for (const int number : order(blocks, seed)) {
        machine_of_thread->block_index = {number % grid.x, number / grid.x, 0};
        Block block;
        block.room = shared_bytes;
        block.memory.resize(shared_bytes);
        block.shadow.resize(shared_bytes / 2 + 1);
        block.fibers.resize(threads);
        block.warps.resize((threads + WARP - 1) / WARP);
        block.body = body;
        machine_of_thread->block = &block;
        for (unsigned which = 0; which < threads; which++) {
            Fiber& one = block.fibers[which];
            one.thread = {which, 0, 0};
            getcontext(&one.start);
            one.start.uc_stack.ss_sp = machine_of_thread->stacks[which].get();
            one.start.uc_stack.ss_size = STACK_BYTES;
            one.start.uc_link = nullptr;
            makecontext(&one.start, run_fiber, 0);
        }
        const bool well = run_block(block, seed);
        machine_of_thread->block = nullptr;
        if (!well) {
            return machine_of_thread->error;
        }
    }
    return "";
}

// A kernel by its name, with arguments as the driver takes them: the address of each.
using Launcher =
    std::function<std::string(dim3, unsigned, std::size_t, std::uint64_t, void* const*)>;

template <typename... A, std::size_t... I>
Launcher bound(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](dim3 grid, unsigned threads, std::size_t shared, std::uint64_t seed,
                    void* const* given) {
        std::tuple<A...> arguments(*static_cast<A*>(given[I])...);
        return launch(grid, threads, shared, seed, [&] { std::apply(kernel, arguments); });
    };
}

template <typename... A>
Launcher bind(void (*kernel)(A...)) {
    return bound(kernel, std::index_sequence_for<A...>{});
}

}  // namespace emulation

// ---- the words of CUDA

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define threadIdx (emulation::fiber().thread)
#define blockIdx (emulation::machine_of_thread->block_index)
#define gridDim (emulation::machine_of_thread->grid)
#define blockDim (emulation::machine_of_thread->block_size)
#define __syncthreads() emulation::barrier(__LINE__)
#define __syncwarp() emulation::ballot(__LINE__, 0xffffffffu, false)
#define __shfl_xor_sync(mask, value, bits) \
    emulation::shuffled(__LINE__, mask, value, emulation::lane() ^ (bits))
#define __shfl_sync(mask, value, from) emulation::shuffled(__LINE__, mask, value, from)
#define __ballot_sync(mask, vote) emulation::ballot(__LINE__, mask, vote)

inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
