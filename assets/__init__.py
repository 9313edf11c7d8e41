"""The Dagster assets: one file for each asset with its spec and its stage; `line` streams products through.

product_catalog ─► source_images ─► product_crops ─► product_models ─► model_quality ─► quality_report
                                                                                       └─► cost_report
"""
