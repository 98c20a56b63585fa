"""An adapter on the machine where it will work: quantisations, languages, time, memory and energy, through llama.cpp.

`run.py` measures, `asking.py` asks llama.cpp, `energy.py` reads the processor's counter, `table.py` shows it.
"""
