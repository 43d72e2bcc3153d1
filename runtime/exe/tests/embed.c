/* A program that embeds a model by cameo.h: every struct of the header is read or written here. */
#define EMBEDDED
#include "fake_model.h"
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            printf("line %d: %s (%s)\n", __LINE__, #condition, cameo_last_error());                 \
            return 1;                                                                               \
        }                                                                                           \
    } while (0)

static void one_by_one(void *user, size_t count, cameo_task task, void *argument) {
    *(size_t *)user += count;
    for (size_t i = 0; i < count; i++)
        task(argument, i);
}

int main(void) {
    enum { N = 90000 };
    static float a[N], b[N], c[N];
    cameo_model *model;
    cameo_context *own, *callers;
    cameo_tensor_info info;
    cameo_symbol_info symbol;
    cameo_output_info output;
    size_t tasks = 0, index;
    int64_t extents[1] = {N};

    for (int i = 0; i < N; i++)
        a[i] = (float)i, b[i] = 2.0f;
    CHECK(cameo_abi_version() == ABI_VERSION);
    CHECK(cameo_model_open(&fake_model, NULL, &model) == CAMEO_OK);
    CHECK(cameo_model_verify(model) == CAMEO_OK);
    CHECK(cameo_input_count(model) == 2 && cameo_output_count(model) == 1 && cameo_symbol_count(model) == 1);
    CHECK(cameo_input_find(model, "b", &index) == CAMEO_OK && index == 1);
    CHECK(cameo_input_find(model, "c", &index) == CAMEO_UNKNOWN_NAME);
    CHECK(cameo_input_describe(model, 1, &info) == CAMEO_OK);
    CHECK(!strcmp(info.name, "b") && info.dtype == CAMEO_FLOAT32 && info.rank == 1);
    CHECK(info.dims[0].extent == -1 && info.dims[0].symbol == 0);
    CHECK(cameo_symbol_describe(model, 0, &symbol) == CAMEO_OK);
    CHECK(!strcmp(symbol.name, "S") && symbol.min == 1 && symbol.max == 100000);

    cameo_options options = CAMEO_OPTIONS_INIT;
    options.threads = 3;
    CHECK(cameo_context_create(model, &options, &own) == CAMEO_OK);
    options.parallel = one_by_one;
    options.user = &tasks;
    CHECK(cameo_context_create(model, &options, &callers) == CAMEO_OK);
    CHECK(cameo_run(own) == CAMEO_NOT_BOUND);
    cameo_context *contexts[2] = {own, callers};
    for (int i = 0; i < 2; i++) {
        CHECK(cameo_bind_input(contexts[i], 0, CAMEO_FLOAT32, extents, 1, a, sizeof a) == CAMEO_OK);
        CHECK(cameo_bind_input(contexts[i], 1, CAMEO_FLOAT32, extents, 1, b, sizeof b) == CAMEO_OK);
        CHECK(cameo_prepare(contexts[i]) == CAMEO_OK);
        CHECK(cameo_output_get(contexts[i], 0, &output) == CAMEO_OK);
        CHECK(output.data == NULL && output.bytes == sizeof c && output.rank == 1 && output.shape[0] == N);
        if (i == 1)
            CHECK(cameo_bind_output(contexts[i], 0, c, sizeof c) == CAMEO_OK);
        CHECK(cameo_run(contexts[i]) == CAMEO_OK);
        CHECK(cameo_output_get(contexts[i], 0, &output) == CAMEO_OK);
        CHECK(output.dtype == CAMEO_FLOAT32 && (i == 0 || output.data == c));
        for (int k = 0; k < N; k++)
            CHECK(((const float *)output.data)[k] == (float)k + 2.5f);
    }
    CHECK(tasks == 6);
    cameo_context_destroy(own);
    cameo_model_close(model);
    cameo_context_destroy(callers);
    puts("ok");
    return 0;
}
