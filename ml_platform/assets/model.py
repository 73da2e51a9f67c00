def model_assets(spec, dataset, manifest):
    return []
