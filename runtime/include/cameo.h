/* Cameo: run a compiled model from C or C++.
 *
 * Every function that can fail returns a cameo_status; cameo_last_error() then says what was wrong, naming the tensor,
 * axis or file. Wrong names, types, shapes, sizes and files are reported, never undefined behaviour; pointers must be
 * valid for what each function says.
 *
 *     cameo_model *model;
 *     cameo_context *context;
 *     cameo_output_info y;
 *     float x[2 * 3] = {0};
 *     int64_t shape[2] = {2, 3};
 *     if (cameo_model_open(&digits_model, "digits.weights", &model) != CAMEO_OK ||
 *         cameo_context_create(model, NULL, &context) != CAMEO_OK ||
 *         cameo_bind_input(context, 0, CAMEO_FLOAT32, shape, 2, x, sizeof x) != CAMEO_OK ||
 *         cameo_run(context) != CAMEO_OK || cameo_output_get(context, 0, &y) != CAMEO_OK)
 *         puts(cameo_last_error());
 *
 * Threads: a model may be used by any number of threads at once. A context serves one thread at a time; contexts of one
 * model run at the same time and share its weights.
 */
#ifndef CAMEO_H
#define CAMEO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. The numbers are fixed. */
typedef enum cameo_status {
    CAMEO_OK = 0,
    CAMEO_INVALID_ARGUMENT = 1,   /* a null or misaligned pointer, a negative extent, overlapping buffers, wrong order */
    CAMEO_UNKNOWN_NAME = 2,       /* no input or output of this name or index */
    CAMEO_WRONG_DTYPE = 3,        /* another element type than the model's */
    CAMEO_WRONG_RANK = 4,         /* another number of axes than the model's */
    CAMEO_WRONG_SIZE = 5,         /* an axis or a number of bytes differs from what it must be */
    CAMEO_SYMBOL_MISMATCH = 6,    /* two axes that share a symbolic dimension differ */
    CAMEO_OUT_OF_RANGE = 7,       /* a symbolic dimension is outside the range that was compiled for */
    CAMEO_BUFFER_TOO_SMALL = 8,   /* an output does not fit the buffer that was bound for it */
    CAMEO_NOT_BOUND = 9,          /* an input was not bound */
    CAMEO_SHAPE_RULE = 10,        /* these shapes violate a rule of the model, or a size overflows */
    CAMEO_INDEX_OUT_OF_RANGE = 11, /* a value that is used as an index is outside its axis */
    CAMEO_WEIGHTS_MISSING = 12,   /* the weights file cannot be opened */
    CAMEO_WEIGHTS_CORRUPT = 13,   /* the weights file is not one, is truncated, or was found to have wrong bytes */
    CAMEO_WEIGHTS_MISMATCH = 14,  /* the weights file belongs to another model */
    CAMEO_CPU_UNSUPPORTED = 15,   /* the processor lacks instructions that were compiled for */
    CAMEO_ABI_MISMATCH = 16,      /* model and runtime come from different versions */
    CAMEO_INVALID_MODEL = 17,     /* the model's tables are inconsistent */
    CAMEO_OUT_OF_MEMORY = 18,
    CAMEO_THREAD_FAILED = 19,     /* a thread could not be started */
    CAMEO_OPERATOR_MISSING = 20,  /* an operator that the model needs was not supplied */
    CAMEO_OPERATOR_FAILED = 21,   /* an operator failed, as on bytes that are no image, or gave a wrong shape */
    CAMEO_INVALID_TEXT = 22       /* a string is not UTF-8, is a null pointer, or cannot be told from another one */
} cameo_status;

/* Element types, numbered as in ONNX. Halves and bfloats are two bytes, booleans one byte of 0 or 1. Elements of 4 and
 * of 2 bits are packed, the first one in the lowest bits of a byte: a tensor of n of them takes (n * bits + 7) / 8 bytes,
 * and what is left of the last byte is 0. */
typedef enum cameo_dtype {
    CAMEO_FLOAT32 = 1,
    CAMEO_UINT8 = 2,
    CAMEO_INT8 = 3,
    CAMEO_UINT16 = 4,
    CAMEO_INT16 = 5,
    CAMEO_INT32 = 6,
    CAMEO_INT64 = 7,
    CAMEO_STRING = 8, /* cameo_string */
    CAMEO_BOOL = 9,
    CAMEO_FLOAT16 = 10,
    CAMEO_FLOAT64 = 11,
    CAMEO_UINT32 = 12,
    CAMEO_UINT64 = 13,
    CAMEO_BFLOAT16 = 16,
    CAMEO_FLOAT8_E4M3FN = 17,
    CAMEO_FLOAT8_E4M3FNUZ = 18,
    CAMEO_FLOAT8_E5M2 = 19,
    CAMEO_FLOAT8_E5M2FNUZ = 20,
    CAMEO_UINT4 = 21,
    CAMEO_INT4 = 22,
    CAMEO_FLOAT4_E2M1FN = 23,
    CAMEO_FLOAT8_E8M0FNU = 24,
    CAMEO_UINT2 = 25,
    CAMEO_INT2 = 26
} cameo_dtype;

/* A string: UTF-8 that nothing ends. Inputs of strings are arrays of these, whose bytes must stay as long as the array; a run
 * begins by reading all of them, and copies the bytes. So are outputs: their bytes are the context's, and live as long as the
 * pointers of a cameo_output_info, also where the array itself is the caller's (cameo_bind_output). data may be null where size
 * is 0. */
typedef struct cameo_string {
    const char *data;
    size_t size;
} cameo_string;

/* What the compiler writes for each model; `extern const struct cameo_model_desc NAME_model;` is in the model's header. */
typedef struct cameo_model_desc cameo_model_desc;

/* An open model with its weights. */
typedef struct cameo_model cameo_model;

/* One caller's bindings, memory and threads. */
typedef struct cameo_context cameo_context;

/* One axis of a tensor. extent: its length, or -1 where it depends on the inputs' shapes. symbol: when it is exactly a
 * symbolic dimension, its index for cameo_symbol_describe, else -1. */
typedef struct cameo_dim {
    int64_t extent;
    int64_t symbol;
} cameo_dim;

/* An input or output. Pointers live as long as the model. */
typedef struct cameo_tensor_info {
    const char *name;
    uint32_t dtype; /* a cameo_dtype */
    size_t rank;
    const cameo_dim *dims; /* rank entries, outermost first */
} cameo_tensor_info;

/* A symbolic dimension. max is INT64_MAX when unbounded. */
typedef struct cameo_symbol_info {
    const char *name;
    int64_t min;
    int64_t max;
} cameo_symbol_info;

/* An output: dense, row-major. Pointers live until its context is bound, prepared, run or destroyed. */
typedef struct cameo_output_info {
    const void *data; /* null before the first run with these shapes */
    size_t bytes;
    uint32_t dtype; /* a cameo_dtype */
    size_t rank;
    const int64_t *shape; /* rank entries, outermost first */
} cameo_output_info;

/* A piece of work for the caller's own threads: task(argument, index). */
typedef void (*cameo_task)(void *argument, size_t index);

/* Must call task(argument, index) once for each index below count, on any threads, at the same time or not, and return
 * when all calls have returned. It is called with `user` on the thread that calls cameo_run. */
typedef void (*cameo_parallel)(void *user, size_t count, cameo_task task, void *argument);

/* How a context runs. Begin with CAMEO_OPTIONS_INIT, so that fields of later versions have their defaults. */
typedef struct cameo_options {
    size_t size;             /* sizeof(cameo_options) */
    uint32_t threads;        /* the calling thread included, at most 1024; 0: what affinity mask and CPU quota allow */
    cameo_parallel parallel; /* null: the context has threads - 1 threads of its own, asleep between runs */
    void *user;              /* passed to parallel */
} cameo_options;

#define CAMEO_OPTIONS_INIT {sizeof(cameo_options), 0, NULL, NULL}

/* Opens a model. weights_path may be null when the weights are linked in. The weights file is mapped, not read: only
 * its header is checked, so that opening takes milliseconds, and it must not be changed while the model is open. */
cameo_status cameo_model_open(const cameo_model_desc *desc, const char *weights_path, cameo_model **out);

/* Operators that a model needs and its caller supplies (`cameo compile --custom-op`).
 *
 *     static int shape(void *user, const cameo_operator_call *call) {
 *         call->outputs[0].shape[0] = call->inputs[0].shape[0] / 2;
 *         return 0;
 *     }
 *     static int compute(void *user, const cameo_operator_call *call) {
 *         const float *x = (const float *)call->inputs[0].data;
 *         float *y = (float *)call->outputs[0].data;
 *         for (int64_t i = 0; i < call->outputs[0].shape[0]; i++)
 *             y[i] = x[2 * i];
 *         return 0;
 *     }
 *     const cameo_operator half = CAMEO_OPERATOR("com.acme::Half", shape, compute, NULL);
 *
 * Both functions must give the same results for the same operands and attributes, and may be called on any thread, by
 * several contexts at once. They return 0, or anything else when they failed, after writing why to call->message.
 *
 * An executable finds operators in a library (`./model --op-library libfoo.so`), or in what it was linked with (`cameo compile
 * --link libfoo.a`), by a function with C linkage that gives an array and its length:
 *
 *     const cameo_operator *cameo_operators(size_t *count);
 */

/* Dense and row-major. */
typedef struct cameo_operator_tensor {
    uint32_t dtype; /* a cameo_dtype; 0: this operand is left out */
    uint32_t reserved;
    size_t rank;
    int64_t *shape; /* rank entries, outermost first; of results, to be written by the shape function alone */
    void *data;     /* null for the shape function; else of operands to be read, of results to be written */
} cameo_operator_tensor;

/* Kinds of attributes, numbered as in ONNX, with what their data points to. */
typedef enum cameo_attribute_kind {
    CAMEO_ATTRIBUTE_FLOAT = 1,  /* const float */
    CAMEO_ATTRIBUTE_INT = 2,    /* const int64_t */
    CAMEO_ATTRIBUTE_STRING = 3, /* const char, with a 0 behind its count of bytes */
    CAMEO_ATTRIBUTE_TENSOR = 4, /* const cameo_operator_tensor */
    CAMEO_ATTRIBUTE_FLOATS = 6,
    CAMEO_ATTRIBUTE_INTS = 7,
    CAMEO_ATTRIBUTE_STRINGS = 8 /* const char *const */
} cameo_attribute_kind;

/* An attribute of the node, as the model has it: one that it leaves out is not there. */
typedef struct cameo_attribute {
    const char *name;
    uint32_t kind; /* a cameo_attribute_kind */
    uint32_t reserved;
    size_t count;
    const void *data;
} cameo_attribute;

typedef struct cameo_operator_call {
    const char *node; /* name of the ONNX node */
    const cameo_attribute *attributes; /* in the order of their names */
    size_t attribute_count;
    const cameo_operator_tensor *inputs;
    size_t input_count;
    const cameo_operator_tensor *outputs;
    size_t output_count;
    char *message; /* room for message_bytes, the 0 included */
    size_t message_bytes;
} cameo_operator_call;

typedef int (*cameo_operator_function)(void *user, const cameo_operator_call *call);

/* An operator: begin with CAMEO_OPERATOR. shape is called when the shapes of inputs are new, and writes those of the
 * results; null when the model knows them. compute is called in each run. Denormal numbers count as zero meanwhile, and
 * booleans are bytes of 0 or 1. */
typedef struct cameo_operator {
    uint32_t version; /* CAMEO_OPERATOR_VERSION */
    uint32_t reserved;
    const char *name; /* "domain::Name", or "Name" in ONNX's own domain */
    cameo_operator_function shape;
    cameo_operator_function compute;
    void *user; /* passed to both */
} cameo_operator;

#define CAMEO_OPERATOR_VERSION 1
#define CAMEO_OPERATOR(name, shape, compute, user) {CAMEO_OPERATOR_VERSION, 0, name, shape, compute, user}

/* As cameo_model_open, with the operators that the model needs, and any others; CAMEO_OPERATOR_MISSING when one is not among
 * them. The array is copied; functions and `user` must stay valid as long as there is a context. */
cameo_status cameo_model_open_with(const cameo_model_desc *desc, const char *weights_path, const cameo_operator *operators,
                                   size_t operator_count, cameo_model **out);

/* Reads all weights and compares their hash with the model's: CAMEO_WEIGHTS_CORRUPT when a byte is not what the compiler
 * wrote. Takes as long as reading the file does; for after a download, not for every start. */
cameo_status cameo_model_verify(const cameo_model *model);

/* Gives the model back; its contexts stay usable. Null is ignored. */
void cameo_model_close(cameo_model *model);

/* What the model takes and gives. The counts of a null model are 0. */
size_t cameo_input_count(const cameo_model *model);
size_t cameo_output_count(const cameo_model *model);
size_t cameo_symbol_count(const cameo_model *model);
cameo_status cameo_input_describe(const cameo_model *model, size_t index, cameo_tensor_info *out);
cameo_status cameo_output_describe(const cameo_model *model, size_t index, cameo_tensor_info *out);
cameo_status cameo_symbol_describe(const cameo_model *model, size_t index, cameo_symbol_info *out);

/* The index of the input or output of a name. */
cameo_status cameo_input_find(const cameo_model *model, const char *name, size_t *out);
cameo_status cameo_output_find(const cameo_model *model, const char *name, size_t *out);

/* Makes a context; options may be null. */
cameo_status cameo_context_create(const cameo_model *model, const cameo_options *options, cameo_context **out);

/* Ends the context's threads and gives its memory back. Null is ignored. */
void cameo_context_destroy(cameo_context *context);

/* Threads of a run, the caller's included. */
uint32_t cameo_context_threads(const cameo_context *context);

/* Binds an input to the caller's memory, which is used in place and must stay valid and unchanged during runs until the
 * input is bound again. bytes must be exactly what shape takes; data a multiple of the element size. Contents may
 * change between runs. Binding again with the same shape is cheap. */
cameo_status cameo_bind_input(cameo_context *context, size_t index, uint32_t dtype, const int64_t *shape, size_t rank,
                              const void *data, size_t bytes);

/* Binds an input of a model that was compiled with --in-place-cache, of which an output is the input with more rows behind
 * it: `past` and `present` of a decoder. data has bytes bytes, room for more rows than shape has along the axis of rows,
 * in each of the outer rows: a cache of shape [1, 8, 100, 64] with room for 512 rows is float[1][8][512][64], of which
 * the first 100 of each 512 are filled. A run writes its rows behind those and leaves all else. cameo_output_get gives the
 * shape of the output; its data is null where the rows are apart: they are here. To go on, bind again with that shape, to
 * go back, with fewer rows; both are cheap. A run for whose rows there is no room is CAMEO_BUFFER_TOO_SMALL. With
 * cameo_bind_input instead, a cache is copied at the beginning of each run, and the output is the context's. */
cameo_status cameo_bind_cache(cameo_context *context, size_t index, uint32_t dtype, const int64_t *shape, size_t rank,
                              void *data, size_t bytes);

/* Binds an output to the caller's memory of capacity bytes, apart from all other tensors. Null: the context's own. */
cameo_status cameo_bind_output(cameo_context *context, size_t index, void *data, size_t capacity);

/* Evaluates the shapes of the bound inputs, after which cameo_output_get knows shapes and bytes; where elements of inputs
 * decide shapes, it reads these. Optional. */
cameo_status cameo_prepare(cameo_context *context);

/* Computes the outputs. Allocates nothing when the shapes are those of the run before, but for strings. The caller's floating-point
 * state is as before afterwards; denormals are flushed to zero during the run. */
cameo_status cameo_run(cameo_context *context);

/* An output's shape after cameo_prepare, and its data after cameo_run. */
cameo_status cameo_output_get(const cameo_context *context, size_t index, cameo_output_info *out);

/* What was wrong in the last failed call on this thread; empty when none failed. Valid until the next failure. */
const char *cameo_last_error(void);

/* A status in words. */
const char *cameo_status_string(int status);

/* Version of the runtime, and of the interface between runtime and compiled models. */
const char *cameo_version(void);
uint32_t cameo_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif
