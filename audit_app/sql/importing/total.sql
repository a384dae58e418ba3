SELECT count(*) FROM @source@.@relation@
