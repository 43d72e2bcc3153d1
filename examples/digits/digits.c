/* Reads an image of a digit and says which it is, with the model linked in.
 *
 *     digits FILE...        each file: 64 numbers from 0 (paper) to 16 (ink), row by row
 *
 * For each file one line: its name, the digit, and the network's probability. `run.sh` builds and runs it.
 */
#include "cameo.h"
#include "digits.h"

#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 8, PIXELS = SIDE * SIDE, CLASSES = 10 };

/* Fills pixels from a text file; 0 when the file does not hold exactly 64 numbers of the right range. */
static int read_image(const char *path, float *pixels) {
    FILE *file = fopen(path, "r");
    int count = 0;
    float value;
    if (!file) {
        return 0;
    }
    while (fscanf(file, "%f", &value) == 1) {
        if (count == PIXELS || !(value >= 0 && value <= 16)) {
            count = -1;
            break;
        }
        pixels[count++] = value;
    }
    int complete = count == PIXELS && feof(file);
    fclose(file);
    return complete;
}

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, cameo_last_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    cameo_model *model;
    cameo_context *context;
    cameo_output_info probabilities, digit;
    size_t count = argc > 1 ? (size_t)(argc - 1) : 0;
    int64_t shape[3] = {(int64_t)count, SIDE, SIDE};
    float *pixels = malloc((count ? count : 1) * PIXELS * sizeof *pixels);

    if (!count || !pixels) {
        fprintf(stderr, "usage: %s FILE...\n", argc ? argv[0] : "digits");
        return 2;
    }
    for (size_t i = 0; i < count; i++) {
        if (!read_image(argv[i + 1], pixels + i * PIXELS)) {
            fprintf(stderr, "%s: expected 64 numbers from 0 to 16\n", argv[i + 1]);
            return 2;
        }
    }

    /* The weights are linked in, so no path; one thread, since the model is smaller than waking a second one. */
    cameo_options options = CAMEO_OPTIONS_INIT;
    options.threads = 1;
    if (cameo_model_open(&digits_model, NULL, &model) != CAMEO_OK ||
        cameo_context_create(model, &options, &context) != CAMEO_OK) {
        return fail("cannot open the model");
    }
    /* All images in one run: the first axis is symbolic. The model reads our memory in place. */
    if (cameo_bind_input(context, 0, CAMEO_FLOAT32, shape, 3, pixels, count * PIXELS * sizeof *pixels) != CAMEO_OK ||
        cameo_run(context) != CAMEO_OK || cameo_output_get(context, 0, &probabilities) != CAMEO_OK ||
        cameo_output_get(context, 1, &digit) != CAMEO_OK) {
        return fail("cannot run the model");
    }
    for (size_t i = 0; i < count; i++) {
        int64_t class = ((const int64_t *)digit.data)[i];
        float share = ((const float *)probabilities.data)[i * CLASSES + (size_t)class];
        printf("%s: %d (%.1f %%)\n", argv[i + 1], (int)class, 100 * (double)share);
    }

    cameo_context_destroy(context);
    cameo_model_close(model);
    free(pixels);
    return EXIT_SUCCESS;
}
