"""Writes the workbooks beside it, as VLMEvalKit does: pandas with openpyxl, and with xlsxwriter.

    pip install pandas openpyxl xlsxwriter && python make.py
"""
import pandas

table = pandas.DataFrame({
    "index": [7, 8, 9, 10, 11],
    "question": ["a, \"b\"\nc", "d", "e", "f", "g"],
    "A": [1.5, None, 3, 4, 5],
    "prediction": ["Yes", "No, no\n<b> & c", None, "=1+1", "日本 Ω 7"],
    "hit": [True, False, True, True, True],
})
for engine in ["openpyxl", "xlsxwriter"]:
    options = {"options": {"strings_to_formulas": False}} if engine == "xlsxwriter" else {}
    with pandas.ExcelWriter(f"{engine}.xlsx", engine=engine, engine_kwargs=options) as writer:
        table.to_excel(writer, index=False)
