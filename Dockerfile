# The environment of `make`, in an image: the same Python, the same constraints.txt, the same commands.
#
#   docker build --tag ssr-offline .
#   docker run --rm ssr-offline                                             # make demo
#   docker run --rm ssr-offline make test
#   docker run --rm --gpus all --volume /data:/data ssr-offline ssr doctor  # own data, a GPU
#
# PyPI's build of PyTorch is the one for NVIDIA GPUs. `--build-arg PIP_INDEX_URL=...` takes another
# index; pytorch.org names the one of each build.
#
# This file was written where no image can be built; nobody has run it there.
FROM python:3.11-slim

ARG PIP_INDEX_URL

# git is what DVC asks for; a C++ compiler, which only `train.compile` on a CPU needs, is left out.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ssr
COPY . .
RUN --mount=type=cache,target=/var/cache/pip PIP_CACHE_DIR=/var/cache/pip make install
ENV PATH=/ssr/.venv/bin:$PATH
CMD ["make", "demo"]
