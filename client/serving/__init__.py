"""An adapter behind an endpoint: llama.cpp's server, or a classifier of torch, under a front of OpenAI's protocol."""
