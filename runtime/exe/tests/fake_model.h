/* A model written by hand in C, as the compiler writes it into objects: c[S] = a[S] + b[S] + weight, 1 <= S <= 100000.
 * The structs repeat cameo-abi, so that a test fails when their layout is not what C makes of them. */
#include <cameo.h>

#define ABI_VERSION 10

typedef struct { const void *ptr; size_t len; } slice;
typedef struct { uint32_t kind, reserved; int64_t value; slice name; } extent;
typedef struct { slice name; uint32_t dtype, reserved; slice shape; } io;
typedef struct { slice name; int64_t min, max; } symbol;
typedef struct { uint32_t region, index; uint64_t offset; } buffer;
typedef struct {
    int32_t (*kernel)(uint8_t *const *, const int64_t *, int64_t, int64_t, uint8_t *);
    uint32_t first_buffer, first_dim, work, reserved;
    slice name;
} step;
typedef struct { uint64_t cpu_features; slice name, steps; } level;
struct cameo_model_desc {
    uint64_t magic;
    uint32_t abi_version, default_threads;
    slice name, symbols, inputs, outputs, buffers, levels, loops, moves, counts, caches, elements, customs, texts, rules;
    uint64_t dim_count, offset_count;
    int32_t (*shape)(const int64_t *, int64_t *, int64_t *, int64_t *);
    uint64_t weight_bytes, weight_hash;
    const uint8_t *weights;
};

#define TEXT(literal) {literal, sizeof(literal) - 1}
#define LIST(array) {array, sizeof(array) / sizeof(*array)}

/* t = a + b into the arena, then c = t + weight, each on all threads. */
static int32_t add(uint8_t *const *buffers, const int64_t *dims, int64_t part, int64_t parts, uint8_t *scratch) {
    const float *a = (const float *)buffers[0], *b = (const float *)buffers[1];
    float *t = (float *)buffers[2];
    (void)scratch;
    for (int64_t i = dims[0] * part / parts; i < dims[0] * (part + 1) / parts; i++)
        t[i] = a[i] + b[i];
    return 0;
}

static int32_t bias(uint8_t *const *buffers, const int64_t *dims, int64_t part, int64_t parts, uint8_t *scratch) {
    const float *t = (const float *)buffers[0], *weight = (const float *)buffers[1];
    float *c = (float *)buffers[2];
    (void)scratch;
    for (int64_t i = dims[0] * part / parts; i < dims[0] * (part + 1) / parts; i++)
        c[i] = t[i] + *weight;
    return 0;
}

static int32_t shape(const int64_t *symbols, int64_t *dims, int64_t *offsets, int64_t *sizes) {
    dims[0] = symbols[0];
    dims[1] = symbols[0] * 10;
    offsets[0] = 0;
    sizes[0] = (symbols[0] * 4 + 63) / 64 * 64;
    sizes[1] = 0;
    return 0;
}

static const extent dynamic[] = {{1, 0, 0, TEXT("S")}};
static const symbol symbols[] = {{TEXT("S"), 1, 100000}};
static const io inputs[] = {{TEXT("a"), 1, 0, LIST(dynamic)}, {TEXT("b"), 1, 0, LIST(dynamic)}};
static const extent computed[] = {{2, 0, 0, TEXT("1*S")}};
static const io outputs[] = {{TEXT("c"), 1, 0, LIST(computed)}};
static const buffer buffers[] = {{2, 0, 0}, {2, 1, 0}, {0, 0, 0}, {0, 0, 0}, {1, 0, 64}, {3, 0, 0}};
static const step steps[] = {{add, 0, 0, 1, 0, TEXT("add")}, {bias, 3, 0, 1, 0, TEXT("bias")}};

#ifdef EMBEDDED
static const float weights[17] __attribute__((aligned(64))) = {[16] = 0.5f};
#define WEIGHTS ((const uint8_t *)weights)
#else
#define WEIGHTS NULL
#endif

static const level levels[] = {{0, TEXT("any"), LIST(steps)}};
static const struct cameo_model_desc fake_model = {
    0x4c444d4f454d4143u, /* "CAMEOMDL" */
    ABI_VERSION, 0, TEXT("fake"), LIST(symbols), LIST(inputs), LIST(outputs), LIST(buffers), LIST(levels),
    {(const void *)64, 0}, {(const void *)64, 0}, {(const void *)64, 0}, {(const void *)64, 0},
    {(const void *)64, 0}, {(const void *)64, 0}, {(const void *)64, 0}, {(const void *)64, 0},
    2, 1, shape, 68, 0x6a395fcebcd4155u, WEIGHTS,
};
