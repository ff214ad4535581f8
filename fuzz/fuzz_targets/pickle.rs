#![no_main]
weigh_fuzz::target!(weigh_fuzz::targets::PICKLE);
