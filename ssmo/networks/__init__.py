"""The models that are paired, by task: tensors in, tensors out ("ssmo specification, section 3")."""
