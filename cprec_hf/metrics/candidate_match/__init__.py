"""hr_all, hr_valid and valid_ratio of generated titles matched against candidate titles."""
